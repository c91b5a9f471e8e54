"""The command: fetch, merge, verify, index, with one table, one JSON object and one-line errors."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sync_and_merge_embeddings as cli
import write_manifest
from kit import console, publish
from support import drill_embeddings
from support.checkout import ROOT
from support.embeddings_clusters import SHARDS
from support.embeddings_samples import shard, shards, vectors, wikipedia


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A work folder with shards of 60 rows in two stand-in clusters, and 50 articles."""
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for number, begin in enumerate(range(0, 60, 15)):
        where = "one" if number < 2 else "two"
        name = f"cluster_{where}_gpu{number % 2}.pkl"
        shard(tmp_path / where / SHARDS / name, vectors(60)[begin : begin + 15], begin)
    wikipedia(tmp_path / "data/raw/wikipedia.pkl", 50)
    return tmp_path


def run(capsys, *words) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command, as console.run ends it."""
    try:
        code = cli.main([str(word) for word in words])
    except console.Problem as problem:
        print(f"x: {problem}", file=sys.stderr)
        code = problem.code
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    return code, out, err


BOTH = ("--clusters", "./one ./two", "--items", "50")


def test_one_command_fetches_from_all_clusters_and_merges(work, capsys):
    code, out, _ = run(capsys, *BOTH)
    assert code == 0
    assert "ok    one" in out and "2 shards fetched" in out
    assert "data/embeddings/wikipedia_merged.pkl" in out and "50 x 8 <f4" in out
    with open(work / "data/embeddings/wikipedia_merged.pkl", "rb") as f:
        assert (pickle.load(f)["embeddings"] == vectors(60)[:50]).all()
    code, out, _ = run(capsys, *BOTH)
    assert code == 0 and "one" in out and "2 unchanged" in out


def test_json_is_one_object_with_clusters_checks_and_what_was_merged(work, capsys):
    code, out, _ = run(capsys, *BOTH, "--json", "--format", "npy")
    answer = json.loads(out)
    assert code == 0 and answer["status"] == "ok"
    assert [c["cluster"] for c in answer["clusters"]] == ["one", "two"]
    assert answer["merged"]["shape"] == [50, 8] and answer["merged"]["left_out"] == 10
    assert answer["merged"]["output"].endswith("data/embeddings/wikipedia_merged.npy")
    assert answer["merged"]["files"] == [
        "wikipedia_merged.npy", "wikipedia_merged.npy.articles.parquet",
    ]  # fmt: skip
    assert np.load(answer["merged"]["output"]).shape == (50, 8)


def test_a_cluster_that_fails_names_the_missing_ranges_and_nothing_is_merged(work, capsys):
    run(capsys, *BOTH)
    output = work / "data/embeddings/wikipedia_merged.pkl"
    before = output.read_bytes()
    for path in (work / "data/embeddings").glob("cluster_two*"):
        path.unlink()
    (work / "two" / SHARDS).rename(work / "two" / "gone")
    code, out, err = run(capsys, *BOTH)
    assert code == 1
    assert "FAIL  two" in out and "there is no folder" in out
    assert "items 30-50 are missing; nothing was merged" in out
    assert output.read_bytes() == before
    assert "merging" not in err


def test_merge_only_merges_and_sync_only_does_not(work, capsys):
    code, out, _ = run(capsys, *BOTH, "--sync-only")
    assert "items 0-50 are here" in out
    code, out, _ = run(capsys, "--clusters", "./one", "--sync-only", "--items", "70")
    assert code == 0 and "items 60-70 are missing" in out
    assert code == 0 and not list((work / "data/embeddings").glob("*merged*"))
    code, out, _ = run(capsys, "--merge-only", "--items", "50", "--output", work / "x.parquet")
    assert code == 0 and (work / "x.parquet").exists() and "one" not in out


def test_verify_says_whether_the_file_is_as_it_was_written(work, capsys):
    run(capsys, *BOTH)
    output = work / "data/embeddings/wikipedia_merged.pkl"
    code, out, _ = run(capsys, "--verify", output)
    assert code == 0 and out.startswith("ok    wikipedia_merged.pkl")
    raw = bytearray(output.read_bytes())
    raw[300] ^= 1
    output.write_bytes(raw)
    code, out, _ = run(capsys, "--verify", output, "--json")
    assert code == 1
    (check,) = json.loads(out)["checks"]
    assert check["found"] == "damaged: rows 0-15 (from cluster_one_gpu0.pkl)"


def test_index_loads_the_merged_vectors_into_sharded_parquet(work, capsys):
    import duckdb

    code, out, _ = run(capsys, *BOTH, "--index", "parquet-shards")
    assert code == 0 and "50 vectors in data/embeddings/wikipedia_merged.pkl.shards" in out
    folder = work / "data/embeddings/wikipedia_merged.pkl.shards"
    assert duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall() == [(50,)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--items", "0"], "is not a number above 0"),
        (["--items", "many"], "is not a number above 0"),
        (["--format", "hdf5"], "invalid choice: 'hdf5'"),
        (["--output", "x.csv"], "--output x.csv: its name must end in .pkl, .npy"),
        (["--output", "x.npy", "--format", "pickle"], "its name must end in .pkl"),
        (["--output", "."], "its name must end in .pkl"),
        (["--output", "data/embeddings/cluster_1_gpu1.pkl"], "has the name of a shard"),
        (["--index-dir", "x"], "--index-dir without --index"),
        (["--sync-only", "--merge-only"], "not allowed with argument"),
        (["--clusters", "a;b"], "is not a host name"),
        (["--clusters", "./one ../one/../one"], "one is given twice"),
        (["--clusters", "./one", "--remote-dir", "/a b"], "cannot be passed on safely"),
        (["--clusters", "./one", "--pattern", "$(id)"], "cannot be passed on safely"),
        (["--merge-only", "--pattern", ""], "cannot be passed on safely"),
        (["--merge-only", "--pattern", "../*"], "cannot be passed on safely"),
        (["--merge-only", "--pattern", "a**b"], "cannot be passed on safely"),
        (["--clusters", "/"], "has no name to go by"),
        (["--merge-only", "--output", "\udcff.pkl"], "is not UTF-8"),
        (["--credentials-dir", "none"], "no clusters: none holds no *.credentials"),
        (["--clusters", "./one", "--articles", "x.csv"], "articles come as .pkl"),
        (["--clusters", "./one", "--articles", "x.pkl"], "there are no articles"),
        (["--embeddings-dir", "data/raw/wikipedia.pkl"], "is a file; name a folder"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(work, capsys, words, message):
    code, out, err = run(capsys, *words)
    last = err.strip().splitlines()[-1]
    assert code == 2 and out == "" and message in last, err
    assert "Traceback" not in err and not list(work.glob("data/embeddings/*"))


def test_a_folder_is_called_after_its_real_name_and_nothing_else_is_touched(work, capsys):
    (work / "data/embeddings").mkdir()
    (work / "data/embeddings/notes.txt").write_text("mine")
    (work / "one/deep").mkdir()
    code, out, _ = run(capsys, "--sync-only", "--clusters", "./one/deep/..")
    assert code == 0 and "ok    one" in out
    assert (work / "data/embeddings/notes.txt").read_text() == "mine"
    assert len(list(work.glob("data/embeddings/*.pkl"))) == 2


def test_a_narrower_pattern_leaves_out_what_the_manifest_lists_too(work, capsys):
    write_manifest.write(str(work / "one" / SHARDS), "cluster*_gpu*.pkl")
    words = ["--clusters", "./one", "--pattern", "cluster_one_gpu0.pkl", "--items", "15"]
    (work / "data/raw/wikipedia.pkl").unlink()
    wikipedia(work / "data/raw/wikipedia.pkl", 15)
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert "1 shards fetched" in out and "15 x 8 <f4" in out


def test_what_was_fetched_is_told_though_the_merge_fails(work, capsys):
    code, out, _ = run(capsys, "--clusters", "./one", "--items", "50", "--json")
    answer = json.loads(out)
    assert code == 1 and answer["clusters"][0]["fetched"] and answer["status"] == "fail"
    assert "items 30-50 are missing" in answer["checks"][-1]["found"]


@pytest.mark.parametrize(
    "change",
    [
        {"digest": None}, {"digest": "md5"}, {"files": {"../x": {"segments": []}}},
        {"files": {"": {"segments": []}}}, {"files": {}}, {"files": 3}, {"format": "other"},
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_one_line(work, capsys, change):
    assert run(capsys, *BOTH)[0] == 0
    merged = work / "data/embeddings/wikipedia_merged.pkl"
    path = merged.with_name(f"{merged.name}.manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    code, out, err = run(capsys, "--verify", merged)
    assert code == 1 and len(err.strip().splitlines()) == 1, err


def test_no_finite_norm_is_null_in_json(work, capsys):
    for path in work.glob(f"*/{SHARDS}/*.pkl"):
        begin = pickle.loads(path.read_bytes())["start_index"]
        shard(path, np.full((15, 8), np.nan, "f4"), begin)
    code, out, _ = run(capsys, *BOTH, "--json")
    quality = json.loads(out, parse_constant=pytest.fail)["merged"]["quality_metrics"]
    assert code == 0 and quality["mean_norm"] is None and quality["has_nan"] is True
    with open(work / "data/embeddings/wikipedia_merged.pkl", "rb") as f:
        assert np.isnan(pickle.load(f)["quality_metrics"]["mean_norm"])


@pytest.mark.slow
def test_without_clusters_all_credentials_files_are_used(cluster, work, capsys):
    remote = cluster("tensor01")
    for path in (work / "one" / SHARDS).iterdir():
        path.rename(remote.folder / path.name)
    remote.credentials(work / ".credentials")
    words = ["--sync-only", "--credentials-dir", ".credentials"]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "tensor01" in out and "2 shards fetched" in out
    (work / ".credentials/tensor01.credentials").chmod(0o644)
    code, out, err = run(capsys, *words)
    assert code == 2 and "mode 0644 lets others read it; chmod 600" in err and out == ""


@pytest.mark.slow
def test_a_server_that_is_down_is_exit_code_1_with_its_ranges(cluster, work, capsys):
    first, second = cluster("tensor01"), cluster("tensor02")
    for remote, name in ((first, "one"), (second, "two")):
        for path in (work / name / SHARDS).iterdir():
            path.rename(remote.folder / path.name)
    words = ["--clusters", "tensor01 tensor02", "--items", "50", "--remote-dir", SHARDS]
    second.stop()
    code, out, _ = run(capsys, *words)
    assert code == 1
    assert "ok    tensor01" in out and "FAIL  tensor02" in out
    assert "items 30-50 are missing; nothing was merged" in out
    assert not list((work / "data/embeddings").glob("*merged*"))


def test_the_command_itself_ends_with_one_line_and_its_exit_code(work, command):
    done = command("sync_and_merge_embeddings.py", "--merge-only")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"sync_and_merge_embeddings.py: {work}/data/embeddings: no shards; "
        "fetch them: leave out --merge-only"
    )


@pytest.mark.slow
def test_five_kills_at_random_moments_lose_nothing(tmp_path):
    drill_embeddings.drill(tmp_path, kills=5, seed=None, rows=24_000)


# The producer's side


def test_the_manifest_lists_finished_shards_and_reads_unchanged_ones_once(tmp_path, monkeypatch):
    shards(tmp_path, vectors(30), 3)
    assert write_manifest.write(str(tmp_path), "cluster*_gpu*.pkl") == 3
    listed = json.loads((tmp_path / "shards.manifest.json").read_text())["files"]
    for name, entry in listed.items():
        assert publish.sha256(tmp_path / name) == entry["sha256"]
        assert entry["size"] == (tmp_path / name).stat().st_size
    read = []
    plain = write_manifest.sha256
    monkeypatch.setattr(write_manifest, "sha256", lambda path: (read.append(path), plain(path))[1])
    shards(tmp_path, vectors(40), 4)
    os.utime(tmp_path / "cluster1_gpu0.pkl", ns=(0, listed["cluster1_gpu0.pkl"]["mtime_ns"]))
    assert write_manifest.write(str(tmp_path), "cluster*_gpu*.pkl") == 4
    assert len(read) == 3  # the first has its old size and time


def test_an_earlier_manifest_that_is_damaged_is_made_anew(tmp_path):
    shards(tmp_path, vectors(30), 3)
    for files in ({"cluster1_gpu0.pkl": 5}, {"cluster1_gpu0.pkl": {"size": 1}}, [], None):
        (tmp_path / "shards.manifest.json").write_text(json.dumps({"files": files}))
        assert write_manifest.main([str(tmp_path)]) == 0
        listed = json.loads((tmp_path / "shards.manifest.json").read_text())["files"]
        assert all(len(entry["sha256"]) == 64 for entry in listed.values()) and len(listed) == 3


def test_a_shard_without_its_end_is_not_listed(tmp_path, capsys):
    first, *_ = shards(tmp_path, vectors(30), 3)
    first.write_bytes(first.read_bytes()[:-1])
    assert write_manifest.main([str(tmp_path)]) == 1
    assert "its end is missing, still being written; run it again later" in capsys.readouterr().err
    assert not (tmp_path / "shards.manifest.json").exists()


def test_a_shard_that_grows_while_it_is_read_is_not_listed(tmp_path, monkeypatch):
    first, *_ = shards(tmp_path, vectors(30), 3)
    plain = write_manifest.sha256

    def grow(path):
        with open(path, "ab") as f:
            f.write(b".")
        return plain(path)

    monkeypatch.setattr(write_manifest, "sha256", grow)
    with pytest.raises(write_manifest.Unfinished, match="it changed while it was read"):
        write_manifest.write(str(tmp_path), "cluster*_gpu*.pkl")


def test_a_folder_without_shards_or_no_folder_is_said(tmp_path, capsys):
    assert write_manifest.main([str(tmp_path)]) == 1
    assert write_manifest.main([str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert "no file matches" in err and "is not a folder" in err


def test_the_producers_script_needs_nothing_but_an_old_python(tmp_path):
    """Python 3.6 where there is one, and through a pipe as over ssh."""
    old = sorted(Path.home().glob(".pyenv/versions/3.[678]*/bin/python"))
    python = str(old[0]) if old else "python3"
    shards(tmp_path, vectors(30), 3)
    with open(ROOT / "scripts/write_manifest.py", "rb") as script:
        words = [python, "-I", "-S", "-"]
        done = subprocess.run(words, cwd=tmp_path, stdin=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "shards.manifest.json").read_text())["files"]) == 3
