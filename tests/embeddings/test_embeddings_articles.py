"""Articles are read with the same care as checkpoints, and their number and order are checked."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct

import pytest

from embeddings import articles
from embeddings.pickles import article_list
from kit import console
from support import embeddings_hostile as hostile
from support.embeddings_cage import read_in_a_cage
from support.embeddings_samples import articles as sample
from support.embeddings_samples import wikipedia, with_flipped_bits


def as_dicts(loaded: articles.Articles) -> list[dict]:
    def text(value):
        return value if isinstance(value, int) else value.decode("utf-8", "surrogatepass")

    return [
        {"id": text(i), "title": text(t), "url": text(u)}
        for i, t, u in zip(*loaded.columns(), strict=True)
    ]


def without_text(rows: list[dict]) -> list[dict]:
    return [{key: row[key] for key in ("id", "title", "url")} for row in rows]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_pickle_is_read_as_pickle_load_reads_it(tmp_path, protocol):
    path = wikipedia(tmp_path / "wikipedia.pkl", 5000, protocol)
    loaded = articles.load(path, 5000)
    assert as_dicts(loaded) == without_text(pickle.loads(path.read_bytes()))
    assert loaded.total == 5000


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.slow
def test_records_of_any_shape_are_read_as_pickle_load_reads_them(tmp_path, seed):
    """Keys in any order, more keys, repeated and shared strings, numbers, long texts."""
    dice = random.Random(seed)
    words = ["a", "", "é", "long " * 60, "日" * 90, "t" * 300]
    shared = "one string object for many " * dice.randint(1, 20)
    keys = dice.sample(["id", "title", "url", "text", "views"], 5)
    rows = []
    for number in range(2500):
        braces = "}" * 300 + "}\x94(h\x01" if seed % 4 == 0 else ""
        values = {
            "id": number if seed % 3 == 0 else str(number),
            "title": dice.choice([*words, shared]),
            "url": dice.choice(words),
            "text": braces
            + dice.choice([*words, shared, "x" * 70_000 if number % 500 == 7 else ""]),
            "views": dice.choice([1, 70_000, 2**40, 1.5, None, True]),
        }
        rows.append({key: values[key] for key in keys})
    path = tmp_path / "wikipedia.pkl"
    path.write_bytes(pickle.dumps(rows, dice.choice([2, 3, 4, 5])))
    assert as_dicts(articles.load(path, 2500)) == without_text(rows)


def test_most_records_are_taken_at_one_go(tmp_path, monkeypatch):
    """The fast way is taken: opcode by opcode is ten times slower."""
    steps = []
    plain = article_list.ListMachine.set_items
    monkeypatch.setattr(
        article_list.ListMachine, "set_items", lambda m, items: (steps.append(1), plain(m, items))
    )
    for protocol in (3, 4):
        path = wikipedia(tmp_path / "wikipedia.pkl", 4000, protocol)
        for ids in (str, int):
            rows = [row | {"id": ids(row["id"])} for row in pickle.loads(path.read_bytes())]
            path.write_bytes(pickle.dumps(rows, protocol))
            steps.clear()
            assert as_dicts(articles.load(path, 4000)) == without_text(rows)
            assert len(steps) < 100  # most of them where a title is a recall, one in 60 a text


def test_only_the_first_items_are_kept_and_all_are_counted(tmp_path):
    loaded = articles.load(wikipedia(tmp_path / "wikipedia.pkl", 2345), 1234)
    assert (len(loaded.ids), len(loaded.titles), len(loaded.urls), loaded.total) == (1234,) * 3 + (
        2345,
    )


def test_jsonl_and_parquet_give_the_same_as_the_pickle(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = sample(300)
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    wikipedia(tmp_path / "a.pkl", 300)
    for name in ("a.jsonl", "a.parquet", "a.pkl"):
        loaded = articles.load(tmp_path / name, 200)
        assert as_dicts(loaded) == without_text(rows)[:200]
        assert loaded.total == 300


def refused(path, items=3, **options) -> str:
    with pytest.raises(console.Problem) as caught:
        articles.load(path, items, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def dump(path, rows, protocol=4):
    path.write_bytes(pickle.dumps(rows, protocol))
    return path


def rows_with(*changes: dict) -> list[dict]:
    rows = sample(3)
    for row, change in zip(rows, changes, strict=False):
        row.update(change)
    return rows


def test_count_and_order_are_checked(tmp_path):
    path = tmp_path / "wikipedia.pkl"
    assert "3 articles for 4 vectors" in refused(dump(path, sample(3)), 4)
    message = refused(dump(path, rows_with({}, {"id": "11"}, {"id": "8"})))
    assert "article 2 has the id 8 after 11" in message and "--articles-order any" in message
    assert len(articles.load(path, 3, any_order=True).ids) == 3
    twice = dump(path, rows_with({"id": "9"}, {"id": "7"}, {"id": "9"}))
    assert "the id '9' is that of articles 0 and 2" in refused(twice, any_order=True)
    names = rows_with({"id": "Q7"}, {"id": "Q3"}, {"id": "Q5"})
    assert as_dicts(articles.load(dump(path, names), 3)) == without_text(names)
    names[2]["id"] = "Q7"
    assert "the id 'Q7' is that of articles 0 and 2" in refused(dump(path, names))


def test_articles_with_wrong_or_missing_fields_are_named(tmp_path):
    path = tmp_path / "wikipedia.pkl"
    assert "the title of article 1 is not text" in refused(dump(path, rows_with({}, {"title": 3})))
    assert "some ids are text and some are numbers" in refused(dump(path, rows_with({}, {"id": 8})))
    lacking = rows_with()
    del lacking[2]["url"]
    assert "the url of article 2 is not text" in refused(dump(path, lacking))
    assert "the title of article 0 is longer" in refused(
        dump(path, rows_with({"title": "x" * 5000}))
    )
    lines = tmp_path / "wikipedia.jsonl"
    lines.write_text('{"id": "1", "title": "A", "url": "u"}\n{"id": "2", "title": "B"}\n')
    assert f"{lines}:2: the article's url is missing" in refused(lines, 2)
    lines.write_text("{broken\n")
    assert f"{lines}:1: not a line of JSON" in refused(lines, 1)


def test_parquet_without_the_columns_or_broken_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "wikipedia.parquet"
    pq.write_table(pa.table({"id": ["1"], "text": ["x"]}), path)
    assert "no column title, url" in refused(path, 1)
    path.write_bytes(b"PAR1 but no more")
    assert "not readable as Parquet" in refused(path, 1)


def test_numbers_and_pages_that_no_reader_takes_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "wikipedia.jsonl"
    path.write_text('{"id": %s, "title": "A", "url": "u"}\n' % ("9" * 30))
    assert "the article's id is beyond 64 bits" in refused(path, 1)
    path = tmp_path / "wikipedia.parquet"
    rows = {"id": ["1", "2"], "title": ["long " * 500, "b"], "url": ["u", "v"]}
    pq.write_table(pa.table(rows), path, compression="zstd")
    whole = bytearray(path.read_bytes())
    for at in range(4, 120):
        whole[at] ^= 0x55
    path.write_bytes(whole)
    assert "not readable as Parquet: " in refused(path, 2)


def test_a_missing_file_or_unknown_kind_is_a_misuse(tmp_path):
    for path in (tmp_path / "wikipedia.pkl", tmp_path / "wikipedia.csv"):
        with pytest.raises(console.Misuse):
            articles.load(path, 1)


def test_every_cut_of_the_articles_is_refused(tmp_path):
    path = dump(tmp_path / "wikipedia.pkl", rows_with())
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert "not whole" in refused(path) or cut < 2


def hostile_lists() -> dict[str, bytes]:
    """Pickles of articles made to harm: code, memory, things that are no articles."""
    begin = b"\x80\x04]\x94("
    record = pickle.dumps(sample(1)[0], 4)[2 + 9 : -1]
    text = hostile.text
    fields = text("id") + text("1") + text("title") + text("t") + text("url") + text("u")
    make = hostile.Calls(exec, f"open({hostile.CANARY!r}, 'w')")
    return {
        "code in an article": pickle.dumps([{"id": hostile.Calls(os.system, "true")}], 4),
        "code as an article": pickle.dumps([make], 4),
        "code after the list": pickle.dumps(sample(2), 4) + b"cos\nsystem\n.",
        "code in place of the list": pickle.dumps(hostile.Calls(os.system, "true"), 4),
        "code in a later article": pickle.dumps(
            [*sample(900), {"id": "1", "title": "t", "url": "u", "x": hostile.Calls(eval, "1")}], 4
        ),
        "LONG_BINPUT": begin + b"}r\xff\xff\xff\x7f",
        "endless lists": begin + b"]" * 3_000_000,
        "endless dicts": begin + b"}" * 3_000_000,
        "endless memos": begin + b"}" + b"\x94" * 3_000_000,
        "endless texts": begin + b"}(" + text("a" * 4000) * 20_000,
        "endless numbers": begin + b"}(" + b"K\x01" * 3_000_000,
        "endless marks": begin + b"(" * 3_000_000,
        "a text too long": begin + b"}(" + b"\x8d" + struct.pack("<Q", 1 << 50),
        "a list that holds itself": b"\x80\x04]\x94h\x00a.",
        "a list in an article": pickle.dumps([{"id": "1", "title": "t", "url": "u", "x": []}], 4),
        "a dict in an article": pickle.dumps([{"id": "1", "title": "t", "url": "u", "x": {}}], 4),
        "an article twice": pickle.dumps([sample(1)[0]] * 2, 4),
        "a dict of articles": pickle.dumps({"articles": sample(2)}, 4),
        "numbers instead of articles": pickle.dumps([1, 2, 3], 4),
        "a key twice": begin + b"}(" + fields + text("id") + text("2") + b"ue.",
        "a key without value": begin + b"}(" + fields + text("x") + b"ue.",
        "items set twice": begin + b"}(" + fields + b"u(" + fields + b"ue.",
        "an append to an article": begin + b"}K\x01ae.",
        "no list at all": b"\x80\x04" + record + b".",
        "empty": b"",
    }


@pytest.mark.slow
def test_hostile_articles_are_refused_unexecuted_in_little_memory(tmp_path):
    files = hostile_lists() | hostile.corpus()
    call = "articles.load(path, 1 << 40)"
    messages, peak_kb, _ = read_in_a_cage(files, tmp_path, "articles", call)
    assert not os.path.exists(hostile.CANARY)
    for name, message in messages.items():
        assert message and "\n" not in message and len(message) < 500, name
    assert peak_kb < 64 * 1024


@pytest.mark.slow
def test_flipped_bits_never_crash_the_reader(tmp_path):
    path = dump(tmp_path / "wikipedia.pkl", sample(40))
    for _ in with_flipped_bits(path, 600, seed=2):
        try:
            articles.load(path, 40, any_order=True)
        except console.Problem as problem:
            assert "\n" not in str(problem)
