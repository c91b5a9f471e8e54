"""What data_prep.py refuses: each bad row named, the right exit code, nothing written over."""

from __future__ import annotations

import json
import os
import sys

import pytest

import data_prep
from support.data_room import TALK, distinct, read_out, refused, write

pytest_plugins = ("support.data_fixtures",)  # the fixtures `inside` and `prep`

COLOURS = ["It is red.", "It is green.", "It is blue."]


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("turns", [{"messages": TALK[:1]}], "in.jsonl:31: no answer"),
        ("empty", [{"messages": []}], "in.jsonl:31: no turns"),
        ("template", [{"prompt": "Who?", "completion": "I am {{name}}."}],
         "in.jsonl:31: unfilled template ({{name}})"),
        ("pair", [{"prompt": "Q?", "chosen": "same", "rejected": "same"}],
         "in.jsonl:31: chosen equals rejected"),
        ("two", [{"messages": []}, {"messages": TALK[:1]}], "in.jsonl:32: no answer"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_file_and_row_and_nothing_is_written_over(
    prep, tmp_path, name, rows, expected
):
    prep("--input", write(tmp_path / "good.jsonl", distinct(30)), "--confirm")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    done = prep("--input", write(tmp_path / "in.jsonl", distinct(30) + rows), "--confirm")
    last = refused(done, 1)
    assert f"bad rows: {len(rows)}" in last and "nothing was written" in last
    assert sum(line.startswith(expected) for line in done.stderr.splitlines()) == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_bad_rows_can_be_left_out_and_are_then_counted(prep, tmp_path):
    source = write(tmp_path / "in.jsonl", [*distinct(30), {"messages": []}, {"messages": TALK[:1]}])
    done = prep("--input", source, "--confirm", "--set", "bad_rows=drop")
    assert done.returncode == 0
    dropped = read_out(tmp_path)[2]["sources"]["in.jsonl"]["dropped"]
    assert dropped == {"no turns": 1, "no answer": 1}


def test_a_failed_run_with_json_prints_one_object_with_the_problems(prep, tmp_path):
    done = prep("--input", write(tmp_path / "in.jsonl", [*distinct(5), {"messages": []}]), "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["status"] == "failed" and answer["bad"] == {"no turns": 1}
    assert answer["problems"] == [
        "in.jsonl:6: no turns (a row needs a user and an assistant message)"
    ]


def test_u_0085_inside_a_line_does_not_break_the_row(prep, tmp_path):
    rows = [
        *distinct(30),
        {"prompt": "One\u0085two\u2028three?", "completion": "Yes, both of them."},
    ]
    path = tmp_path / "in.jsonl"
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    done = prep("--input", path, "--confirm")
    assert done.returncode == 0, done.stderr
    train, val, manifest = read_out(tmp_path)
    asked = [row["messages"][0]["content"] for row in train + val]
    assert "One\ntwo\nthree?" in asked and len(asked) == 31
    assert manifest["sources"]["in.jsonl"]["mended"] == {"control characters": 1}


def test_a_broken_line_of_json_is_named_with_its_number(prep, tmp_path):
    path = write(tmp_path / "in.jsonl", distinct(3))
    path.write_text(path.read_text() + '{"prompt": "cut off\n' + json.dumps(distinct(4)[3]) + "\n")
    done = prep("--input", path)
    refused(done, 1)
    assert "in.jsonl:4: broken line" in done.stderr


def test_a_csv_line_with_too_few_fields_is_named_with_its_number(prep, tmp_path):
    (tmp_path / "in.csv").write_text("title,subreddit\nFine headline,TheOnion\nno second field\n")
    done = prep("--input", tmp_path / "in.csv")
    refused(done, 1)
    assert "in.csv:3: broken line (1 fields where the header has 2)" in done.stderr


def table(path, replaced):
    """A CSV of 40 rows, in which `replaced` stands for those at its keys (line numbers)."""
    made = [f"{row['completion']},TheOnion" for row in distinct(40)]
    made.insert(0, "title,subreddit")
    for number, line in replaced.items():
        made[number - 1] = line
    path.write_text("\n".join(made) + "\n")
    return path


@pytest.mark.parametrize(
    "line", ['"broken "quote" here",TheOnion', '"never closed,TheOnion', 'x,"closed late"r']
)
def test_after_a_broken_quote_the_other_lines_of_a_table_are_read(prep, tmp_path, line):
    source = table(tmp_path / "in.csv", {7: line, 20: line})
    done = prep("--input", source, "--set", "deduplication.near=false")
    assert "bad rows: 2" in refused(done, 1)
    assert "in.csv:7: broken line" in done.stderr and "in.csv:20: broken line" in done.stderr
    done = prep("--input", source, "--confirm", "--set", "bad_rows=drop",
                "--set", "deduplication.near=false")  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = read_out(tmp_path)[2]["sources"]["in.csv"]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (40, 38, {"broken line": 2})


@pytest.mark.parametrize(
    "lines",
    [
        {5: '"a cell\nof two lines",TheOnion', 9: '"a "quote" here",TheOnion'},
        {9: '"a "quote"\nthen, a piece\nand the end",TheOnion'},
    ],
)
def test_a_broken_quote_among_cells_with_line_breaks_stops_even_where_bad_rows_are_dropped(
    prep, tmp_path, lines
):
    done = prep("--input", table(tmp_path / "in.csv", lines), "--set", "bad_rows=drop", "--confirm")
    assert "where the next row begins is unclear; correct the quotes" in refused(done, 1)
    assert not (tmp_path / "out").exists()


def test_a_table_whose_header_is_broken_is_unreadable_as_a_whole(prep, tmp_path):
    source = table(tmp_path / "in.csv", {1: '"title"s,subreddit'})
    done = prep("--input", source, "--recipe", "table")
    refused(done, 1)
    assert "in.csv: unreadable (the header: " in done.stderr


def test_a_table_with_the_line_ends_of_an_old_mac_finds_its_recipe(prep, tmp_path):
    rows = "".join(f"{r['prompt']},{r['completion']}\r" for r in distinct(20))
    (tmp_path / "in.csv").write_bytes(f"prompt,completion\r{rows}".encode())
    done = prep("--input", tmp_path / "in.csv")
    assert done.returncode == 0, done.stderr
    assert "in.csv: recipe table" in done.stderr and "in.csv: 20 read" in done.stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.json", "[" * 100_000),
        ("deep.jsonl", '{"prompt": ' + "[" * 100_000),
        ("long.json", '[{"prompt": ' + "9" * 5000 + ', "completion": "x"}]'),
        ("long.jsonl", '{"prompt": ' + "9" * 5000 + ', "completion": "x"}\n'),
        ("tools.jsonl", json.dumps({"messages": TALK, "tools": "[" * 100_000}) + "\n"),
    ],
)
def test_json_that_python_cannot_hold_is_one_bad_row_beside_the_others(prep, tmp_path, name, text):
    if name.startswith("long") and not hasattr(sys, "get_int_max_str_digits"):
        pytest.skip("this Python reads numbers of any length")
    write(tmp_path / "raw" / "good.jsonl", distinct(20))
    (tmp_path / "raw" / name).write_text(text)
    assert "bad rows: 1" in refused(prep("--input", tmp_path / "raw"), 1)
    done = prep("--input", tmp_path / "raw", "--set", "bad_rows=drop")
    assert done.returncode == 0 and "good.jsonl: 20 read, 20 kept" in done.stdout


@pytest.mark.parametrize("encoding", ["nope", "hex"])
def test_an_encoding_that_does_not_exist_is_said_in_one_line(prep, tmp_path, encoding):
    source = table(tmp_path / "in.csv", {})
    done = prep("--input", source, "--set", f"recipes.headlines.encoding={encoding}")
    refused(done, 1)
    assert f"no encoding of text is named '{encoding}'" in done.stderr


@pytest.mark.parametrize(
    ("content", "code", "expected"),
    [
        (None, 2, "no such file or folder"),
        ({}, 1, "the folder is empty"),
        ({".hidden": b"x"}, 1, "the folder is empty"),
        ({"a.csv": b""}, 1, "bad rows: 1"),
        ({"a.jsonl": b"\x00\x01" * 500}, 1, "bad rows: 1"),
        ({"photo.png": b"\x89PNG\r\n\x1a\n\x00\x00"}, 1, "none of its 1 files can be read"),
        ({"a.csv": "title,subreddit\nCafé,TheOnion\n".encode("cp1252")}, 1, "bad rows: 1"),
        ({"a.txt": "Привет, мир. Как дела?".encode("koi8-r")}, 1, "bad rows: 1"),
        ({"a.csv": b"name,age\nAnna,3\n"}, 1, "none of its 1 files can be read"),
    ],
)  # fmt: skip
def test_a_folder_that_gives_nothing_ends_with_one_line_and_its_remedy(
    prep, tmp_path, content, code, expected
):
    root = tmp_path / "raw"
    if content is not None:
        root.mkdir()
        for name, data in content.items():
            (root / name).write_bytes(data)
    done = prep("--input", root, "--confirm")
    assert expected in refused(done, code)
    assert not (tmp_path / "out").exists()


def test_links_to_folders_and_pipes_are_named_and_never_opened(prep, tmp_path):
    write(tmp_path / "elsewhere" / "in.jsonl", distinct(20))
    root = tmp_path / "raw"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "pipe.jsonl")
    last = refused(prep("--input", root), 1)
    assert "linked: skipped (a link to a folder, not followed)" in last
    assert "pipe.jsonl: skipped (no regular file)" in last
    assert "no regular file" in refused(prep("--input", root / "pipe.jsonl"), 2)
    write(root / "in.jsonl", distinct(20))
    done = prep("--input", root, "--confirm")
    assert done.returncode == 0 and "linked: skipped" in done.stderr
    assert set(read_out(tmp_path)[2]["not_read"]) == {"linked", "pipe.jsonl"}


def test_a_file_name_with_a_line_break_stays_on_its_line(prep, tmp_path):
    source = write(tmp_path / "a\nb.jsonl", [*distinct(20), {"messages": []}])
    for given in (source, tmp_path):
        done = prep("--input", given)
        assert "a\\nb.jsonl:21: no turns" in done.stderr
        assert "b.jsonl:21: no turns" not in done.stderr.splitlines()


def test_a_folder_as_the_file_of_rejects_is_a_misuse(prep, tmp_path):
    done = prep("--input", write(tmp_path / "in.jsonl", distinct(20)), "--rejects", tmp_path)
    assert f"--rejects {tmp_path} is a folder" in refused(done, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.json", "damaged"])
def test_generated_rows_replace_real_ones_only_where_that_is_said(inside, tmp_path, name):
    source = write(tmp_path / "in.jsonl", distinct(20))
    assert inside(data_prep, "--input", source, "--confirm").returncode == 0
    out = tmp_path / "data" / "processed"
    if name == "damaged":
        (out / "manifest.json").write_text("{")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    few = ("--set", "recipes.weather.size=40")
    origin = "an unknown source" if name == "damaged" else "in.jsonl"
    assert f"holds rows of {origin}" in refused(inside(data_prep, *few, "--confirm"), 2)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    plan = inside(data_prep, *few)
    assert plan.returncode == 0 and "--confirm will refuse" in plan.stderr
    for more in (("--recipe", "weather"), ()):  # the second time over generated ones
        assert inside(data_prep, *few, *more, "--confirm").returncode == 0


def test_rows_that_are_all_in_another_language_name_the_switch(prep, tmp_path):
    text = "Der alte Fluss lief an dem Haus vorbei, und alle wussten davon schon lange. "
    rows = [{"prompt": f"{r['prompt']} {text * 4}", "completion": text} for r in distinct(6)]
    done = prep("--input", write(tmp_path / "in.jsonl", rows), "--set", "deduplication.near=false")
    assert "--set 'language.keep=[de]'" in refused(done, 1)


def test_one_row_alone_cannot_be_split_and_the_remedy_works(prep, tmp_path):
    source = write(tmp_path / "in.jsonl", distinct(1))
    assert "--set split.val_fraction=0" in refused(prep("--input", source, "--confirm"), 1)
    many = write(tmp_path / "many.jsonl", [{"prompt": "Same?", "completion": c} for c in COLOURS])
    done = prep("--input", many, "--set", "deduplication.near=false")
    assert "only 3 rows are left: none for validation" in refused(done, 1)
    done = prep("--input", source, "--confirm", "--set", "split.val_fraction=0")
    assert done.returncode == 0
    assert [len(side) for side in read_out(tmp_path)[:2]] == [1, 0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--recipe", "headlnes", "--input", "."],
        ["--input", "x", "--collection", "y"],
        ["--input", ""],
        ["--set", "recipes.headlines.user=Is {title} {subreddit"],
        ["--set", "recipes.headlines.topic=of {title:d}"],
        ["--max-samples", "0"],
        ["--set", "cleaning.min_charz=3"],
        ["--collection", "nowhere"],
        ["--colection", "x"],
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(prep, arguments):
    done = prep(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


# --- lengths ------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path):
    """A folder with a small tokenizer, made here; the test adds a chat template or not."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return folder


def test_a_tokenizer_without_template_ends_the_run_before_anything_is_written(
    prep, tokenizer, tmp_path
):
    source = write(tmp_path / "in.jsonl", distinct(20))
    done = prep("--input", source, "--confirm", "--set", f"length.tokenizer={tokenizer}")
    assert "has no chat template" in refused(done, 1)
    assert not (tmp_path / "out").exists()


def test_lengths_are_counted_with_the_tokenizer_and_its_template(prep, tokenizer, tmp_path):
    pytest.importorskip("jinja2", reason="jinja2, which renders templates, is not installed here")
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    (tokenizer / "chat_template.jinja").write_text(template)
    rows = [*distinct(20), {"prompt": "word " * 100, "completion": "word " * 50 + "end"}]
    source = write(tmp_path / "in.jsonl", rows)
    setting = ["--set", f"length.tokenizer={tokenizer}", "--set", "length.max_length=100",
               "--set", "language.keep=[]"]  # fmt: skip
    prep("--input", source, "--confirm", *setting)
    length = read_out(tmp_path)[2]["length"]
    assert length["method"] == "chat template and tokenizer"
    assert length["longest"] == 100 + 51 + 2 and length["longer_than_max_length"] == 1
    prep("--input", source, "--confirm", *setting, "--set", "length.too_long=drop")
    dropped = read_out(tmp_path)[2]["sources"]["in.jsonl"]["dropped"]
    assert dropped == {"longer than max_length": 1}


def test_a_row_that_the_template_refuses_is_named(prep, tokenizer, tmp_path):
    pytest.importorskip("jinja2", reason="jinja2, which renders templates, is not installed here")
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    )
    (tokenizer / "chat_template.jinja").write_text(template)
    talk = [{"role": "system", "content": "Be kind."}, *TALK]
    source = write(tmp_path / "in.jsonl", [*distinct(20), {"messages": talk}])
    done = prep("--input", source, "--set", f"length.tokenizer={tokenizer}")
    refused(done, 1)
    assert "in.jsonl:21: refused by the chat template (no system)" in done.stderr


def test_without_the_tokenizer_the_lengths_are_estimated_and_the_report_says_so(prep, tmp_path):
    done = prep("--input", write(tmp_path / "in.jsonl", distinct(20)), "--confirm")
    assert "estimate: the tokenizer is not on this machine" in done.stdout
    assert read_out(tmp_path)[2]["length"]["method"].startswith("estimate")
