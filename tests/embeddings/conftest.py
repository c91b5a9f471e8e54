"""Fixtures of this room: real clusters over ssh, the folder they are fetched to, a small merge."""

from support.embeddings_clusters import cluster, here
from support.embeddings_merges import merge_options

__all__ = ["cluster", "here", "merge_options"]
