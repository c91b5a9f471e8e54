"""Embeddings: shards fetched from many GPU hosts, merged into one file, loaded where they are used.

pickle_reader  a checkpoint without executing it      credentials  who logs in where
shards         which ranges are here, which are not   ssh          one master per cluster
articles       ids, titles, URLs beside the vectors   fetch        files, resumed and verified
rows           blocks, checks, statistics             outputs      formats, publishing, --verify
merge          all of it, in one pass                 index        Chroma, sharded Parquet
"""
