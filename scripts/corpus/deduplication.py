"""Near-duplicates: rows whose sets of character shingles overlap by Jaccard's measure.

MinHash banding finds candidates, all rows at once in numpy (datasketch, row by row, takes ten
times as long; the tests hold both to the same pairs). Each candidate is compared exactly. Between
train and validation the search is exact from the start (`pairs_across`): it misses nothing.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_WORDS = re.compile(r"[^\w]+")
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads neighbouring values
_BLOCK = 1 << 16  # shingles handled at once: they fit into a core's cache
_SHARED = 5  # rare shingles that a pair must share before it is compared


def normal(text: str) -> str:
    """Text as duplicates are judged by: case, punctuation and spacing do not count."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORDS.sub(" ", text.casefold()).strip()


def shingles(text: str, width: int) -> Any:
    """The distinct character shingles of `text` as sorted uint32 hashes, shape (n,); n >= 1."""
    return shingle_sets([text], width)[0]


def shingle_sets(texts: Sequence[str], width: int) -> list[Any]:
    """shingles() of each text. Many texts are hashed in one go."""
    result: list[Any] = []
    block, size = [], 0
    for text in texts:
        block.append(normal(text).ljust(width, "\0"))
        size += len(block[-1])
        if size > _BLOCK:
            result += _sets_of_block(block, width)
            block, size = [], 0
    return result + (_sets_of_block(block, width) if block else [])


def _sets_of_block(texts: list[str], width: int) -> list[Any]:
    import numpy as np

    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    windows = np.zeros(len(codes) - width + 1, dtype=np.uint64)
    for i in range(width):
        windows = (windows ^ codes[i : len(windows) + i]) * np.uint64(_MULTIPLIER)
        windows ^= windows >> np.uint64(29)
    lengths = np.array([len(text) for text in texts])
    ends = lengths.cumsum()
    owner = np.repeat(np.arange(len(texts)), lengths)[: len(windows)]
    inside = np.arange(len(windows)) + width <= ends[owner]  # not across the border of two texts
    keyed = (owner[inside].astype(np.uint64) << np.uint64(32)) | (windows[inside] >> np.uint64(32))
    keyed = np.unique(keyed)
    borders = np.searchsorted(keyed, np.arange(1, len(texts)).astype(np.uint64) << np.uint64(32))
    return np.split(keyed.astype(np.uint32), borders)


def jaccard(a: Any, b: Any) -> float:
    """Overlap of two shingle sets: |a and b| / |a or b|, 0 to 1."""
    import numpy as np

    both = np.intersect1d(a, b, assume_unique=True).size
    return both / (a.size + b.size - both)


def _blocks(sets: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of runs of sets with about _BLOCK shingles."""
    begin = size = 0
    for i, items in enumerate(sets):
        size += items.size
        if size > _BLOCK:
            yield begin, i + 1
            begin, size = i + 1, 0
    if begin < len(sets):
        yield begin, len(sets)


def signatures(sets: Sequence[Any], num_perm: int) -> Any:
    """MinHash values, uint32 (len(sets), num_perm); each from one linear hash of the shingles."""
    import numpy as np

    dice = np.random.default_rng(1)
    factors = dice.integers(1, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    terms = dice.integers(0, 1 << 32, num_perm, dtype=np.uint32)
    result = np.empty((len(sets), num_perm), dtype=np.uint32)
    for begin, end in _blocks(sets):
        values = np.concatenate(sets[begin:end])
        sizes = np.array([items.size for items in sets[begin:end]])
        starts = sizes.cumsum() - sizes
        for i, (factor, term) in enumerate(zip(factors, terms, strict=True)):
            result[begin:end, i] = np.minimum.reduceat(values * factor + term, starts)
    return result


def repeats(
    sets: Sequence[Any], config, alike: Callable[[int, int], bool] | None = None
) -> dict[int, int]:
    """{place: the earlier place that it repeats}; a repeated one is compared with no later one.

    config: config.schemas.data.DeduplicationSection. `alike(earlier, later)` is asked last.
    """
    import numpy as np

    if not sets:
        return {}
    hashes = signatures(sets, config.num_perm)
    keys = _band_keys(hashes, config.bands)
    # fewer equal MinHash values, five standard deviations below: no need to look exactly
    least = config.num_perm * config.jaccard - 2.5 * math.sqrt(config.num_perm)
    buckets: list[dict[int, list[int]]] = [{} for _ in range(config.bands)]
    result: dict[int, int] = {}
    for place in np.flatnonzero(keys.any(axis=1)).tolist():
        bands = [(i, key) for i, key in enumerate(keys[place].tolist()) if key]
        candidates = {other for i, key in bands for other in buckets[i].get(key, ())}
        for other in sorted(candidates):
            equal = np.count_nonzero(hashes[other] == hashes[place])
            if equal < least or jaccard(sets[other], sets[place]) < config.jaccard:
                continue
            if alike is None or alike(other, place):
                result[place] = other
                break
        else:
            for i, key in bands:
                buckets[i].setdefault(key, []).append(place)
    return result


def _band_keys(hashes: Any, bands: int) -> Any:
    """uint64 (rows, bands): one number for the values of a band, 0 where no other row has it."""
    import numpy as np

    parts = hashes.reshape(len(hashes), bands, -1)
    keys = np.empty((len(hashes), bands), dtype=np.uint64)
    for band in range(bands):
        mixed = np.zeros(len(hashes), dtype=np.uint64)
        for i in range(parts.shape[2]):
            mixed = (mixed ^ parts[:, band, i]) * np.uint64(_MULTIPLIER)
            mixed ^= mixed >> np.uint64(29)
        _, inverse, counts = np.unique(mixed, return_inverse=True, return_counts=True)
        keys[:, band] = np.where(counts[inverse] > 1, mixed | np.uint64(1), 0)
    return keys


def pairs_across(left: Sequence, right: Sequence, threshold: float) -> Iterator[tuple[int, int]]:
    """Every (i, j) with jaccard(left[i], right[j]) >= threshold; no pair is missed.

    Two sets that overlap so much share several of the rarest shingles of the first: only those are
    looked up. Give the smaller side as `left`.
    """
    import numpy as np

    if not left or not right:
        return
    token, owner, least = _rarest(left, right, threshold)
    sizes = np.array([items.size for items in left])
    for begin, end in _blocks(right):
        items = np.concatenate(right[begin:end])
        lengths = np.array([one.size for one in right[begin:end]])
        first, behind = token.searchsorted(items, "left"), token.searchsorted(items, "right")
        counts = behind - first
        shift = np.repeat(first - (counts.cumsum() - counts), counts) + np.arange(counts.sum())
        places = np.repeat(np.repeat(np.arange(end - begin), lengths), counts)
        pairs, shared = np.unique(owner[shift] * (end - begin) + places, return_counts=True)
        one, other = pairs // (end - begin), pairs % (end - begin)
        ratio = sizes[one] / lengths[other]
        likely = (shared >= least[one]) & (ratio >= threshold) & (ratio * threshold <= 1)
        for i, j in zip(one[likely].tolist(), (other[likely] + begin).tolist(), strict=True):
            if jaccard(left[i], right[j]) >= threshold:
                yield i, j


def _rarest(left: Sequence, right: Sequence, threshold: float) -> tuple[Any, Any, Any]:
    """(shingles, sorted; for each its place in `left`; for each place how many must be shared).

    Of n shingles a near set shares at least need = threshold * n: of any n - need + k it has k.
    """
    import numpy as np

    values, often = np.unique(np.concatenate(right), return_counts=True)
    tokens, least = [], []
    for items in left:
        at = np.minimum(values.searchsorted(items), values.size - 1)
        frequency = np.where(values[at] == items, often[at], 0)
        need = math.ceil(threshold * items.size - 1e-9)
        least.append(min(_SHARED, need))
        rarest = frequency.argsort(kind="stable")[: items.size - need + least[-1]]
        tokens.append(items[rarest])
    owner = np.repeat(np.arange(len(left)), [items.size for items in tokens])
    token = np.concatenate(tokens)
    order = token.argsort(kind="stable")
    return token[order], owner[order], np.array(least)
