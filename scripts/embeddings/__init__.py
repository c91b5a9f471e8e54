"""Embeddings: shards fetched from many GPU hosts, merged into one file, loaded where they are used.

pickles/   a checkpoint or a list of articles, read as data, and the merged pickle, written
shards     which ranges are here, which are missing; articles: their ids, titles and URLs
cluster_…  credentials, ssh, listing, transfer and fetch of each cluster; sync_record: from where
merge      in one pass; merge_folder: until it is published; worker: the articles beside the rows
merged_…   formats, manifest and check of the result; vector_index: Chroma, sharded Parquet
steps      the command's two steps, with the checks that it reports
"""
