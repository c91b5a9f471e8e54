"""Exact and near-duplicates.

Near: the Jaccard overlap of two rows' character shingles reaches the threshold. MinHash banding
(datasketch) finds candidates, each is checked exactly on the shingles. Between train and
validation an exact search is made besides, which misses nothing (`pairs_across`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

_WORDS = re.compile(r"[^\w]+")
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads neighbouring values


def normal(text: str) -> str:
    """Text as duplicates are judged by: case, punctuation and spacing do not count."""
    return _WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(text: str, width: int) -> Any:
    """The distinct character shingles of `text` as sorted uint32 hashes, shape (n,); n >= 1."""
    import numpy as np

    codes = np.frombuffer(normal(text).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    if len(codes) < width:
        codes = np.pad(codes, (0, width - len(codes)))
    windows = np.zeros(len(codes) - width + 1, dtype=np.uint64)
    multiplier = np.uint64(_MULTIPLIER)
    for i in range(width):
        windows = (windows ^ codes[i : len(codes) - width + 1 + i]) * multiplier
        windows ^= windows >> np.uint64(29)
    return np.unique((windows >> np.uint64(32)).astype(np.uint32))


def jaccard(a: Any, b: Any) -> float:
    """Overlap of two shingle sets: |a and b| / |a or b|, 0 to 1."""
    import numpy as np

    both = np.intersect1d(a, b, assume_unique=True).size
    return both / (a.size + b.size - both)


class NearDuplicates:
    """Remembers rows by their shingles and says which earlier row a new one repeats.

    config: a DeduplicationSection. Rows whose MinHash values agree in one whole band are
    candidates. (datasketch's own MinHashLSH finds the same ones in twice the time.)
    """

    def __init__(self, config):
        from datasketch import MinHash

        self.config = config
        self._empty = MinHash(config.num_perm, hashfunc=int)
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(config.bands)]
        self._sets: list[Any] = []
        self._signatures: list[Any] = []
        # fewer equal MinHash values, five standard deviations below: no need to look exactly
        self._least = config.num_perm * config.jaccard - 2.5 * math.sqrt(config.num_perm)

    def add(self, sets: Any) -> int | None:
        """The place of an earlier row that `sets` (from shingles()) repeats; else remember it."""
        import numpy as np

        signature = self._empty.copy()
        signature.update_batch(sets.tolist())
        values = signature.hashvalues.tobytes()
        width = len(values) // self.config.bands
        keys = [values[i : i + width] for i in range(0, len(values), width)]
        near = {p for band, key in zip(self._bands, keys, strict=True) for p in band.get(key, ())}
        for place in sorted(near):
            alike = np.count_nonzero(self._signatures[place] == signature.hashvalues)
            if alike >= self._least and jaccard(self._sets[place], sets) >= self.config.jaccard:
                return place
        for band, key in zip(self._bands, keys, strict=True):
            band.setdefault(key, []).append(len(self._sets))
        self._sets.append(sets)
        self._signatures.append(signature.hashvalues)
        return None


def pairs_across(left: Sequence, right: Sequence, threshold: float) -> Iterator[tuple[int, int]]:
    """Every (i, j) with jaccard(left[i], right[j]) >= threshold; no pair is missed.

    `left` is indexed by its shingles, so that one pass over right[j] counts what it shares with
    each of them: give the smaller side.
    """
    import numpy as np

    if not left:
        return
    sizes = np.array([items.size for items in left])
    values = np.concatenate(left)
    order = values.argsort(kind="stable")
    owners = np.repeat(np.arange(len(left)), sizes)[order]
    values, begin, often = np.unique(values[order], return_index=True, return_counts=True)
    for j, items in enumerate(right):
        at = np.minimum(values.searchsorted(items), values.size - 1)
        at = at[values[at] == items]
        counts = often[at]
        shift = begin[at] - (counts.cumsum() - counts)  # the runs of owners, laid end to end
        places = np.repeat(shift, counts) + np.arange(counts.sum())
        both = np.bincount(owners[places], minlength=len(left))
        for i in np.flatnonzero(both / (sizes + items.size - both) >= threshold):
            yield int(i), j
