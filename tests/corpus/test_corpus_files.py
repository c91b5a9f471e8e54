"""Which files of a folder are training text, and what is said of the others: a remedy works."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from corpus.sources import encodings, source_files
from support.data_room import distinct, read_out, refused, write

pytest_plugins = ("support.data_fixtures",)

TEXTS = {
    "gb18030": "为什么红色的灯笼比强壮的铜钟更贵？因为市场上没有人愿意买它，这是一个问题。",
    "big5": "為什麼紅色的燈籠比強壯的銅鐘更貴？因為市場上沒有人願意買它，這是一個問題。",
    "cp932": "なぜ赤い提灯は銅の鐘より高いのですか。市場で誰も買いたくないからです。",
    "euc_jp": "なぜ赤い提灯は銅の鐘より高いのですか。市場で誰も買いたくないからです。",
    "cp949": "왜 빨간 등불이 구리 종보다 더 비쌉니까? 아무도 사고 싶어하지 않기 때문입니다.",
    "cp1251": "почему красный фонарь дороже медного колокола? Потому что на рынке его не хотят.",
    "koi8_r": "почему красный фонарь дороже медного колокола? Потому что на рынке его не хотят.",
    "cp1253": "γιατί το κόκκινο φανάρι είναι πιο ακριβό; Επειδή κανείς δεν το θέλει πια.",
    "cp1252": "Der Käufer fragt, warum die Tür größer ist; das Café hat heute für alle geöffnet.",
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_the_encoding_of_a_text_is_named(name):
    assert encodings.guess(f"prompt,completion\n{TEXTS[name]},x\n".encode(name)) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [("cp1254", "Şu köşe yaz köşesi, şu köşe kış köşesi, ortada su şişesi. İğne ışık ağaç."),
     ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy, když večer přišel déšť."),
     ("cp1257", "Ąžuolas šlama, žąsys šaukia, ėjo jų daug ir šįvakar."), ("koi8_r", "да")],
)  # fmt: skip
def test_no_encoding_is_named_where_it_is_not_clear(name, text):
    assert encodings.guess(f"prompt,completion\n{text},x\n".encode(name)) is None


def table(path, encoding: str) -> None:
    lines = [f"{row['prompt']} {TEXTS[encoding]},{row['completion']}\n" for row in distinct(20)]
    path.write_bytes(("prompt,completion\n" + "".join(lines)).encode(encoding))


OPEN = ["--set", "language.keep=[]", "--set", "deduplication.near=false"]


@pytest.mark.parametrize("encoding", ["gb18030", "koi8_r", "cp949"])
def test_the_encoding_that_the_refusal_names_reads_the_table(prep, tmp_path, encoding):
    table(tmp_path / "in.csv", encoding)
    last = refused(prep("--input", tmp_path / "in.csv", "--confirm", *OPEN), 1)
    named = re.search(r"--set (recipes\.table\.encoding=\w+)", last)
    done = prep("--input", tmp_path / "in.csv", "--confirm", *OPEN, "--set", named[1])
    assert done.returncode == 0, done.stderr
    assert TEXTS[encoding] in read_out(tmp_path)[0][0]["messages"][0]["content"]


def test_an_encoding_that_makes_no_text_of_a_file_is_refused(prep, tmp_path):
    table(tmp_path / "in.csv", "gb18030")
    wrong = ["--set", "recipes.table.encoding=cp1252"]
    last = refused(prep("--input", tmp_path / "in.csv", "--confirm", *OPEN, *wrong), 1)
    assert "cp1252 makes no text of it" in last and "encoding=gb18030" in last


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "book.txt", "data.parquet"])
def test_a_git_lfs_pointer_is_named_with_its_command(prep, tmp_path, name):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_text(POINTER)
    last = refused(prep("--input", tmp_path / "raw"), 1)
    assert "a Git LFS pointer" in last and "git lfs pull" in last


@pytest.mark.slow
def test_parquet_is_named_and_the_command_that_converts_it_works(prep, tmp_path):
    import pandas

    raw = tmp_path / "raw"
    raw.mkdir()
    pandas.DataFrame(distinct(20)).to_parquet(raw / "train.parquet")
    last = refused(prep("--input", raw), 1)
    assert "a Parquet file" in last
    code = re.search(r'python -c "(.*?)"', last)[1]
    subprocess.run([sys.executable, "-c", code], check=True)
    done = prep("--input", raw, "--confirm")
    assert done.returncode == 0 and "train.parquet: skipped (a Parquet file" in done.stderr
    assert len(read_out(tmp_path)[0]) == 19


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [("a.jsonl", b"\x1f\x8b\x08", "gzip"), ("rows.csv", b"PK\x03\x04", "zip"),
     ("b.txt", b"PAR1", "Parquet"), ("c.jsonl", b"SQLite format 3\x00", "SQLite")],
)  # fmt: skip
def test_a_file_of_another_kind_under_a_name_of_text_is_named(prep, tmp_path, name, data, kind):
    (tmp_path / name).write_bytes(data + bytes(90))
    assert f"{kind} file" in refused(prep("--input", tmp_path / name), 1)


def test_a_card_a_licence_and_held_out_files_are_named_and_not_trained_on(prep, tmp_path):
    raw = tmp_path / "raw"
    write(raw / "data" / "train.jsonl", distinct(20))
    for name in ("data/test-00000-of-00001.jsonl", "validation/part.jsonl", "data/dev.json"):
        write(raw / name, [{"prompt": f"Held out {name}?", "completion": "HELD OUT, not learned."}])
    (raw / "README.md").write_text("---\nlicense: mit\n---\n# Card\n" + "About these rows. " * 99)
    papers = ["LICENSE.txt", "README.zh-CN.md", "COPYING.txt", "LICENSE-DATA.md", "datacard.md",
              "requirements.txt"]  # fmt: skip
    for name in papers:
        (raw / name).write_text("Permission is hereby granted. " * 99)
    done = prep("--input", raw, "--confirm")
    assert done.returncode == 0, done.stderr
    train, val, manifest = read_out(tmp_path)
    assert {row["source"] for row in train + val} == {"data/train.jsonl"}
    assert set(manifest["not_read"]) == {
        "README.md", *papers, "data/test-00000-of-00001.jsonl", "validation/part.jsonl",
        "data/dev.json"}  # fmt: skip
    assert "a test file by its name" in done.stderr


def test_a_test_file_alone_is_read_where_it_is_named_itself(prep, tmp_path):
    path = write(tmp_path / "raw" / "test.jsonl", distinct(20))
    last = refused(prep("--input", path.parent), 1)
    assert f"--input {path}" in last
    assert prep("--input", path, "--confirm").returncode == 0


@pytest.mark.parametrize(
    ("name", "side"),
    [("test.csv", "test"), ("my-val.jsonl", "validation"), ("eval/rows.json", "test"),
     ("test_data/rows.json", "test"), ("split=val/0.json", "validation"), ("held_out.csv", "test"),
     ("devset.jsonl", "validation"), ("unit_tests/rows.json", ""),
     ("latest.csv", ""), ("contest_results.csv", ""), ("tested.jsonl", ""), ("evaluate.json", "")],
)  # fmt: skip
def test_a_name_says_held_out_only_as_a_word(tmp_path, name, side):
    files = [tmp_path / name, tmp_path / "rows.jsonl"]
    assert source_files.held_out(files[0], files, table=True) == side


def test_notes_beside_no_rows_are_text_even_as_a_readme(prep, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, word in (("README.md", "river"), ("dev notes.txt", "harbour")):
        text = "".join(f"The {word} number {n} rose in spring. It fell again. " for n in range(99))
        (raw / name).write_text(text)
    done = prep("--input", raw, "--confirm", "--set", "deduplication.near=false")
    assert done.returncode == 0, done.stderr
    assert set(read_out(tmp_path)[2]["sources"]) == {"README.md", "dev notes.txt"}


def test_a_table_that_pandas_wrote_by_columns_is_read_by_rows(prep, tmp_path):
    import pandas

    pandas.DataFrame(distinct(20)).to_json(tmp_path / "in.json")
    assert prep("--input", tmp_path / "in.json", "--confirm").returncode == 0
    train, val, _ = read_out(tmp_path)
    asked = {row["messages"][0]["content"] for row in train + val}
    assert asked == {row["prompt"] for row in distinct(20)}


def test_rejects_are_written_where_the_refusal_says_so(prep, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b"}] * 3)
    rejects = tmp_path / "rejects.jsonl"
    last = refused(prep("--input", source, "--rejects", rejects), 1)
    assert "see each one with --rejects FILE" in last
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == [1, 2, 3]


def test_keys_of_no_known_format_can_be_given_a_recipe_as_the_refusal_says(prep, tmp_path):
    rows = [{"query": row["prompt"], "reply": row["completion"]} for row in distinct(20)]
    source = write(tmp_path / "in.jsonl", rows)
    for given in (source, tmp_path):
        assert "--set recipes.NAME=" in refused(prep("--input", given), 1)
    mine = "recipes.mine={kind: jsonl, user: '{query}', assistant: '{reply}'}"
    done = prep("--input", source, "--recipe", "mine", "--set", mine, "--confirm")
    assert done.returncode == 0, done.stderr
    assert len(read_out(tmp_path)[0]) == 19


def test_an_encoding_given_in_the_recipe_is_used(prep, tmp_path):
    body = "title,subreddit\n" + "".join(f"Café opening number {n},TheOnion\n" for n in range(9))
    (tmp_path / "a.csv").write_bytes(body.encode("cp1252"))
    done = prep("--input", tmp_path / "a.csv", "--set", "recipes.headlines.encoding=cp1252",
                "--set", "deduplication.near=false", "--confirm")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Café" in json.dumps(read_out(tmp_path)[0], ensure_ascii=False)


def test_a_key_that_a_row_has_twice_is_no_row(prep, tmp_path):
    """json keeps the last one and drops the first without a word."""
    twice = '{"prompt": "Why so?", "completion": "A", "completion": "B"}\n'
    for text in (twice, twice * 2):
        (tmp_path / "a.jsonl").write_text(text)
        done = prep("--input", tmp_path / "a.jsonl")
        assert done.returncode == 1 and "the key completion occurs twice" in done.stderr


@pytest.mark.parametrize("encoding", ["iso2022_jp", "utf-32"])
def test_japanese_in_seven_bits_and_utf_32_are_read_or_named(prep, tmp_path, encoding):
    lines = [f"{row['prompt']} 東京はどこですか,{row['completion']}\n" for row in distinct(20)]
    file = tmp_path / "in.csv"
    file.write_bytes(("prompt,completion\n" + "".join(lines)).encode(encoding))
    options = list(OPEN)
    if encoding == "iso2022_jp":  # every byte of it is ASCII
        last = refused(prep("--input", file, "--confirm", *OPEN), 1)
        options += ["--set", re.search(r"--set (recipes\.table\.encoding=\w+)", last)[1]]
    done = prep("--input", file, "--confirm", *options)
    assert done.returncode == 0, done.stderr
    assert "東京はどこですか" in read_out(tmp_path)[0][0]["messages"][0]["content"]


def test_cyrillic_of_the_mac_is_not_named_as_that_of_windows():
    text = "Сегодня хорошая погода, пойдём гулять. Где моя большая книга?"
    assert encodings.guess(f"prompt,completion\n{text},x\n".encode("mac_cyrillic")) is None


def test_a_column_that_a_table_has_twice_is_named(prep, tmp_path):
    (tmp_path / "in.csv").write_text("question,answer,answer\nWhy?,Because.,No.\n")
    last = refused(prep("--input", tmp_path / "in.csv"), 1)
    assert "the header has the column answer twice" in last


def test_rows_that_their_split_holds_out_are_counted_and_not_trained_on(prep, tmp_path):
    rows = [row | {"split": ("train", "test")[n > 20]} for n, row in enumerate(distinct(30))]
    assert prep("--input", write(tmp_path / "in.jsonl", rows), "--confirm").returncode == 0
    train, val, manifest = read_out(tmp_path)
    assert len(train + val) == 21
    assert manifest["sources"]["in.jsonl"]["dropped"] == {"held out by its key split (test)": 9}
    last = refused(prep("--input", write(tmp_path / "in.jsonl", rows[21:])), 1)
    assert "take the key split out of the rows" in last
    bare = [{key: row[key] for key in row if key != "split"} for row in rows[21:]]
    done = prep("--input", write(tmp_path / "in.jsonl", bare), "--set", "split.val_fraction=0")
    assert done.returncode == 0
