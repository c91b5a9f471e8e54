"""The rehearsal: the whole trip as a new user starts it."""

import json
import os
import subprocess

import pytest

from support.checkout import ROOT


def make(*words, env=None):
    return subprocess.run(
        ["make", "-s", *words], cwd=ROOT, capture_output=True, text=True, timeout=900,
        env=os.environ | (env or {}), stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--rehearse", "--raw", "/nowhere/at/all"], 2, "RAW=/nowhere/at/all: no such file"),
        (["--rehearse", "--host", "gpu1; touch x"], 2, "gpu1; touch x"),
        (["--rehearse", "--host", "-oProxyCommand=touch x"], 2, "-oProxyCommand"),
        ([], 2, "no host was named; HOST=gpu1"),
    ],
)
def test_a_wrong_call_ends_before_any_work(command, words, code, said):
    done = command("pipeline.py", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_host_that_is_out_of_reach_is_known_before_any_work(command):
    done = command("pipeline.py", "--rehearse", "--host", "no-such-host.invalid")
    assert done.returncode == 1 and done.stdout == ""
    assert "no-such-host.invalid" in done.stderr and "Traceback" not in done.stderr


def bad_raw(tmp_path, kind):
    raw = tmp_path / "raw"
    raw.mkdir()
    content = {
        "empty folder": None,
        "empty file": b"",
        "binary": bytes(range(256)) * 64,
        "wrong encoding": "title,subreddit\nй,TheOnion\n".encode("utf-16-le")[:-1],
    }[kind]
    if content is not None:
        (raw / "data.csv").write_bytes(content)
    return raw


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty folder", "empty file", "binary", "wrong encoding"])
def test_raw_text_that_cannot_be_read_stops_the_rehearsal_with_one_line(tmp_path, kind):
    done = make("rehearse", env={"RAW": str(bad_raw(tmp_path, kind))})
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("pipeline.py: data: ")]
    assert len(said) == 1
    assert ("data.csv: unreadable" in done.stderr) == (kind != "empty folder")
    assert "Traceback" not in done.stderr + done.stdout


def rehearse(**variables):
    done = make("rehearse", env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((ROOT / ".rehearsal" / "report.json").read_text())
    assert report["after"]["loss"]["value"] < report["before"]["loss"]["value"]
    assert [name for name, _, _ in report["stages"]][-1] == "adapter"
    assert "make pipeline HOST=" in done.stdout
    return report


@pytest.mark.remote_env
@pytest.mark.slow
def test_the_whole_trip_works_on_generated_examples():
    report = rehearse()
    version = ROOT / ".rehearsal" / "laptop" / "adapters" / report["adapter"].replace("@", "/")
    assert (version / "adapter_model.safetensors").is_file() and (version / "card.json").is_file()


@pytest.mark.remote_env
@pytest.mark.slow
def test_the_whole_trip_works_on_real_headlines(samples):
    report = rehearse(RAW=str(samples / "reddit"))
    assert report["after"]["exact_match"]["value"] > report["before"]["exact_match"]["value"]
