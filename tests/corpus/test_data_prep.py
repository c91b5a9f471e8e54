"""data_prep.py as a user meets it: plan, writing, recipes, and the promise of the split."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from corpus import deduplication
from support.checkout import ROOT
from support.data_room import distinct, lines, read_out, write

pytest_plugins = ("support.data_fixtures",)  # the fixtures `inside` and `prep`


# --- plan and writing ---------------------------------------------------------------------------


def test_without_confirm_it_plans_and_writes_nothing(prep, tmp_path):
    done = prep("--input", write(tmp_path / "in.jsonl", distinct(40)))
    assert done.returncode == 0
    assert "planned" in done.stdout and "--confirm" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_manifest_vouches_for_every_file_and_counts_every_row(prep, tmp_path):
    rows = [*distinct(40), distinct(1)[0], {"prompt": "x", "completion": "y"}]
    done = prep("--input", write(tmp_path / "in.jsonl", rows), "--confirm", "--json")
    answer = json.loads(done.stdout)
    train, val, manifest = read_out(tmp_path)
    assert answer["status"] == "written" and answer["files"] == manifest["files"]
    for name, facts in manifest["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
                         "rows": data.count(b"\n")}  # fmt: skip
    tally = manifest["sources"]["in.jsonl"]
    assert tally["dropped"] == {"exact duplicate": 1, "too short": 1}
    assert tally["read"] == 42 == tally["kept"] + sum(tally["dropped"].values())
    assert len(train) + len(val) == tally["kept"] and len(val) == 2
    assert set(train[0]) == {"messages", "source"}


@pytest.mark.slow
def test_the_same_input_and_seed_give_the_same_bytes_in_every_process(command, prep, tmp_path):
    source = write(tmp_path / "in.jsonl", distinct(60))
    made = []
    for hashes in ("1", "2"):
        command("data_prep.py", "--input", source, "--confirm", "--out-dir", tmp_path / "out",
                env={"PYTHONHASHSEED": hashes})  # fmt: skip
        made.append({p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()})
    assert made[0] == made[1]
    prep("--input", source, "--confirm", "--seed", 99)
    assert (tmp_path / "out/val_sft.jsonl").read_bytes() != made[0]["val_sft.jsonl"]


def test_max_samples_draws_that_many_and_counts_the_others(prep, tmp_path):
    prep("--input", write(tmp_path / "in.jsonl", distinct(60)), "--max-samples", 20, "--confirm")
    train, val, manifest = read_out(tmp_path)
    assert len(train) + len(val) == 20
    assert manifest["sources"]["in.jsonl"]["dropped"] == {"not drawn (max_samples)": 40}


def test_every_reject_is_kept_with_its_reason_where_asked(prep, tmp_path):
    rows = [*distinct(30), *distinct(2)]
    source, rejects = write(tmp_path / "in.jsonl", rows), tmp_path / "rejects.jsonl"
    prep("--input", source, "--rejects", rejects)
    kept = [(r["source"], r["row"], r["reason"], r["detail"]) for r in lines(rejects)]
    assert kept == [
        ("in.jsonl", 31, "exact duplicate", "of in.jsonl:1"),
        ("in.jsonl", 32, "exact duplicate", "of in.jsonl:2"),
    ]
    assert lines(rejects)[0]["record"]["messages"][1]["content"] == rows[0]["completion"]


def test_the_preference_files_of_an_earlier_run_do_not_stay_beside_a_new_manifest(prep, tmp_path):
    pairs = [
        r | {"chosen": r.pop("completion"), "rejected": "No idea at all."} for r in distinct(30)
    ]
    prep("--input", write(tmp_path / "pairs.jsonl", pairs), "--confirm")
    assert (tmp_path / "out/train_preference.jsonl").exists()
    prep("--input", write(tmp_path / "plain.jsonl", distinct(30)), "--confirm")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "manifest.json", "train_sft.jsonl", "val_sft.jsonl"]  # fmt: skip


@pytest.mark.slow
def test_our_own_output_below_the_input_is_not_read_again(command, tmp_path):
    write(tmp_path / "data/raw/in.jsonl", distinct(30))
    for _ in range(2):
        done = command("data_prep.py", "--input", tmp_path / "data", "--confirm", "--json")
        assert list(json.loads(done.stdout)["sources"]) == ["raw/in.jsonl"]


@pytest.mark.slow
def test_killed_while_it_writes_it_leaves_what_was_there(prep, tmp_path):
    prep("--input", write(tmp_path / "old.jsonl", distinct(40)), "--confirm")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    big = write(tmp_path / "new.jsonl", distinct(3000)[40:])
    words = [sys.executable, ROOT / "scripts/data_prep.py", "--input", big, "--confirm",
             "--out-dir", tmp_path / "out"]  # fmt: skip
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not list((tmp_path / "out").glob(".*.part")):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    after = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.name[0] != "."}
    manifest = json.loads(after["manifest.json"])
    for name, facts in manifest["files"].items():
        assert hashlib.sha256(after[name]).hexdigest() == facts["sha256"]
    assert after == before or manifest["files"]["train_sft.jsonl"]["rows"] > 1000


# --- recipes and real text ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def headlines(tmp_path_factory):
    """The reddit sample through data_prep.py, once for several tests."""
    samples = ROOT.parent / "shared" / "samples"
    if not samples.is_dir():
        pytest.skip("the folder of real samples (../shared/samples) is not here")
    folder = tmp_path_factory.mktemp("headlines")
    subprocess.run(
        [sys.executable, ROOT / "scripts/data_prep.py", "--input", samples / "reddit",
         "--out-dir", folder / "out", "--confirm"],
        check=True, capture_output=True,
    )  # fmt: skip
    return read_out(folder)


@pytest.mark.slow
def test_the_reddit_csvs_become_chat_rows_by_the_recipe_of_the_config(headlines):
    train, val, manifest = headlines
    tallies = manifest["sources"]
    assert tallies["TheOnion_181217_184244.csv"]["dropped"]["exact duplicate"] == 738
    assert tallies["nottheonion_181217_184009.csv"]["dropped"]["exact duplicate"] == 2214
    assert all(t["read"] == 10000 and t["recipe"] == "headlines" for t in tallies.values())
    assert {row["messages"][-1]["content"] for row in val} == {"real", "satire"}
    assert all(row["topic"] == "news" for row in train)
    assert not any("&amp;" in row["messages"][0]["content"] for row in train + val)


@pytest.mark.slow
def test_no_near_duplicate_of_a_validation_row_is_in_train(headlines):
    train, val, manifest = headlines
    settings = manifest["config"]["deduplication"]

    def shingles(rows: list[dict]) -> list:
        texts = ["\n".join(m["content"] for m in row["messages"]) for row in rows]
        return [deduplication.shingles(text, settings["shingle_chars"]) for text in texts]

    sides = shingles(val), shingles(train)
    assert not list(deduplication.pairs_across(*sides, settings["jaccard"]))
    assert list(deduplication.pairs_across(*sides, 0.4))  # the search does find what is there


def test_a_near_duplicate_that_the_banding_misses_is_still_not_on_both_sides(prep, tmp_path):
    rows = distinct(150)
    rows += [row | {"prompt": row["prompt"].replace("?", " then?")} for row in rows]
    source, rejects = write(tmp_path / "in.jsonl", rows), tmp_path / "rejects.jsonl"
    coarse = ["--set", "deduplication.num_perm=16", "--set", "deduplication.bands=1"]
    prep("--input", source, "--confirm", *coarse, "--set", "split.val_fraction=0.3",
         "--rejects", rejects)  # fmt: skip
    train, val, _ = read_out(tmp_path)
    sets = [
        [deduplication.shingles("\n".join(m["content"] for m in r["messages"]), 5) for r in side]
        for side in (val, train)
    ]
    assert not list(deduplication.pairs_across(*sets, 0.7))
    assert any(r["detail"].endswith("in validation") for r in lines(rejects))


@pytest.mark.slow
def test_the_gutenberg_folder_becomes_rows_of_the_books_and_the_json_beside_them_is_named(
    prep, samples, tmp_path
):
    done = prep("--input", samples / "gutenberg", "--confirm")
    train, val, manifest = read_out(tmp_path)
    assert {row["topic"] for row in train} == {
        "Roughing It", "Life On The Mississippi, Complete", "The Autobiography of Benjamin Franklin"
    }  # fmt: skip
    assert list(manifest["not_read"]) == ["expected_boundaries.json"]
    assert "expected_boundaries.json" in done.stderr
    text = json.dumps(train + val)
    assert "Literary Archive Foundation" not in text and "SMALL PRINT" not in text


def test_without_input_it_generates_weather_dialogues_with_tools(prep, tmp_path):
    done = prep("--set", "recipes.weather.size=60", "--confirm")
    assert done.returncode == 0, done.stderr
    train, _, manifest = read_out(tmp_path)
    assert manifest["sources"]["generated: weather"]["recipe"] == "weather"
    assert all(row["tools"] for row in train)


@pytest.mark.slow
def test_preference_rows_give_pairs_and_their_chosen_answers_become_sft_rows(
    prep, samples, tmp_path
):
    prep("--input", samples / "instruct/lf_dpo_en_demo.json", "--confirm")
    train, val, manifest = read_out(tmp_path)
    pairs = lines(tmp_path / "out/train_preference.jsonl")
    assert len(pairs) == len(train) == manifest["files"]["train_preference.jsonl"]["rows"] > 250
    assert set(pairs[0]) == {"prompt", "chosen", "rejected", "source"}
    assert all(p["chosen"] != p["rejected"] for p in pairs)
    held_out = {json.dumps(p["prompt"]) for p in lines(tmp_path / "out/val_preference.jsonl")}
    assert held_out and not held_out & {json.dumps(p["prompt"]) for p in pairs}
    prep("--input", samples / "instruct/lf_dpo_en_demo.json", "--confirm", "--set",
         "preference.also_sft=false")  # fmt: skip
    assert read_out(tmp_path)[0] == []


def test_a_table_with_the_columns_of_a_known_format_needs_no_templates(prep, tmp_path):
    rows = "".join(f'"{r["prompt"]}","{r["completion"]}"\n' for r in distinct(20))
    (tmp_path / "in.csv").write_text("question,answer\n" + rows)
    prep("--input", tmp_path / "in.csv", "--confirm")
    train, val, manifest = read_out(tmp_path)
    assert len(train) + len(val) == 20 and manifest["sources"]["in.csv"]["recipe"] == "table"


def test_a_recipe_of_ones_own_maps_columns_and_values(prep, tmp_path):
    body = "".join(f"Headline number {n} about things,{n % 2}\n" for n in range(20))
    (tmp_path / "in.tsv").write_text("text,score\n" + body)
    recipe = (
        "{kind: csv, glob: '*.tsv', columns: [text, score], user: 'Rate: {text}', "
        "assistant: '{score}', values: {score: {'0': bad, '1': good}}}"
    )
    done = prep("--input", tmp_path / "in.tsv", "--recipe", "mine", "--confirm",
                "--set", f"recipes.mine={recipe}", "--set", "deduplication.near=false")  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = {row["messages"][1]["content"] for row in read_out(tmp_path)[0]}
    assert answers == {"good", "bad"}


@pytest.mark.slow
def test_a_collection_gives_questions_and_questions_with_their_passages(
    command, prep, samples, tmp_path
):
    store = tmp_path / "chroma"
    command("ingest_documents.py", samples / "legal", "--store", store)
    done = prep("--collection", "pdf_docs", "--store", store, "--top-k", 2, "--max-samples", 100,
                "--confirm")  # fmt: skip
    assert done.returncode == 0, done.stderr
    train, val, manifest = read_out(tmp_path)
    assert len(train) + len(val) == 100
    assert manifest["config"]["documents"]["top_k"] == 2
    retrieved = [r["messages"] for r in train if r["messages"][0]["content"].startswith("[1] ")]
    assert retrieved and len(retrieved) < len(train)
    for ask, answer in retrieved:
        assert "\n\n[2] " in ask["content"] and "\n\n[3] " not in ask["content"]
        assert answer["content"] in ask["content"].replace("\n", " ")


def test_help_works_with_a_bare_python(tmp_path):
    for name in ("data_prep.py", "generate_examples.py", "ingest_documents.py"):
        done = subprocess.run(
            [sys.executable, "-E", "-S", ROOT / "scripts" / name, "--help"],
            capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: ") and "Exit codes" in done.stdout
