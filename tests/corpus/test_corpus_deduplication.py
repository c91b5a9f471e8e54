"""Near-duplicates are found, checked exactly, and never stand on both sides of the split."""

from __future__ import annotations

import random

import pytest

from config.schemas import data
from corpus import deduplication, splitting
from corpus.rows import Row

WORDS = [
    "".join(random.Random(i).choices("abcdefghijklmnop", k=random.Random(-i - 1).randint(3, 9)))
    for i in range(3000)
]


def sets(text: str):
    return deduplication.shingles(text, 5)


def sentence(r: random.Random, words: int = 14) -> list[str]:
    return [r.choice(WORDS) for _ in range(words)]


def test_case_punctuation_and_spacing_do_not_count():
    assert deduplication.jaccard(sets("The cat, sat!"), sets("the  CAT sat")) == 1.0


def test_the_overlap_is_that_of_the_sets_of_shingles():
    a, b = "abcdefgh", "abcdefxy"
    shingles = [{t[i : i + 5] for i in range(len(t) - 4)} for t in (a, b)]
    exact = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    assert deduplication.jaccard(sets(a), sets(b)) == exact


@pytest.mark.parametrize("text", ["", "a", "日本", "?!", "abcd"])
def test_text_shorter_than_a_shingle_still_equals_itself(text):
    assert deduplication.jaccard(sets(text), sets(text)) == 1.0


@pytest.mark.slow
def test_of_2000_planted_near_duplicates_at_most_two_are_missed():
    r = random.Random(3)
    originals = [sentence(r) for _ in range(2000)]
    made = [sets(" ".join(words)) for words in originals]
    while len(made) < 4000:
        words = list(originals[len(made) - 2000])
        words[r.randrange(len(words))] = r.choice(WORDS)
        copy = sets(" ".join(words))
        if deduplication.jaccard(copy, made[len(made) - 2000]) >= 0.7:
            made.append(copy)
    repeated = deduplication.repeats(made, data.DeduplicationSection())
    assert sum(repeated.get(place) == place - 2000 for place in range(2000, 4000)) >= 1998


def varied(count: int, seed: int) -> list:
    """Sets of sentences, many of which repeat an earlier one with some words changed."""
    r = random.Random(seed)
    talks: list[list[str]] = []
    for _ in range(count):
        words = sentence(r, 10) if r.random() < 0.5 or not talks else list(r.choice(talks))
        for _ in range(r.randrange(4)):
            words[r.randrange(len(words))] = r.choice(WORDS)
        talks.append(words)
    return [sets(" ".join(words)) for words in talks]


def test_what_is_called_a_near_duplicate_reaches_the_threshold_exactly():
    made = varied(1500, 5)
    repeated = deduplication.repeats(made, data.DeduplicationSection())
    assert len(repeated) > 100
    for place, first in repeated.items():
        assert first < place and first not in repeated
        assert deduplication.jaccard(made[first], made[place]) >= 0.7


@pytest.mark.slow
def test_it_finds_what_datasketch_finds():
    from datasketch import MinHash, MinHashLSH

    made, config = varied(600, 9), data.DeduplicationSection()
    index = MinHashLSH(num_perm=128, params=(32, 4))
    reference = set()
    for place, items in enumerate(made):
        signature = MinHash(128, hashfunc=int)
        signature.update_batch(items.tolist())
        similar = [
            p for p in index.query(signature) if deduplication.jaccard(made[p], items) >= 0.7
        ]
        if similar:
            reference.add(place)
        else:
            index.insert(place, signature)
    assert len(reference) > 50
    assert set(deduplication.repeats(made, config)) == reference


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.95, 1.0])
def test_the_search_across_sides_finds_exactly_what_comparing_all_pairs_finds(threshold):
    r = random.Random(7)
    base = [sentence(r, 8) for _ in range(40)]

    def vary() -> list:
        made = []
        for _ in range(120):
            words = list(r.choice(base))
            for _ in range(r.randrange(4)):
                words[r.randrange(8)] = r.choice(WORDS)
            made.append(sets(" ".join(words)))
        return made

    left, right = vary(), vary()
    every = {
        (i, j)
        for i in range(len(left))
        for j in range(len(right))
        if deduplication.jaccard(left[i], right[j]) >= threshold
    }
    assert every
    assert set(deduplication.pairs_across(left, right, threshold)) == every


def rows(count: int, groups: int) -> list[Row]:
    made = []
    for i in range(count):
        talk = [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "a"}]
        made.append(Row(talk, group=f"group {i % groups}", source="file", number=i))
    return made


def test_a_group_is_never_split():
    train, val = splitting.split(rows(300, 40), 13, 0.1)
    assert {r.group for r in train} & {r.group for r in val} == set()
    assert len(train) + len(val) == 300
    assert 20 <= len(val) <= 45


def test_two_rows_give_one_to_each_side_and_one_row_gives_none_to_validation():
    assert [len(side) for side in splitting.split(rows(2, 2), 13, 0.05)] == [1, 1]
    assert [len(side) for side in splitting.split(rows(1, 1), 13, 0.05)] == [1, 0]
    assert [len(side) for side in splitting.split(rows(9, 9), 13, 0.0)] == [9, 0]


def test_the_seed_alone_decides_and_another_seed_decides_otherwise():
    def val(seed: int) -> list[int]:
        return [r.number for r in splitting.split(rows(200, 200), seed, 0.1)[1]]

    assert val(1) == val(1)
    assert val(1) != val(2)


def test_a_sample_does_not_depend_on_the_order_of_the_files():
    made = rows(100, 100)
    backwards = splitting.sample(made[::-1], 5, 10)
    assert [r.number for r in splitting.sample(made, 5, 10)] == [r.number for r in backwards]
