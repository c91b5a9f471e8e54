"""Which run is begun or gone on with, who holds it, and what a damaged one says. No torch."""

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import yaml

from kit import console
from support.checkout import ROOT
from training import resume, run_folder, run_lock

SETTINGS = SimpleNamespace(model_dump=lambda **_: {"lora": {"r": 16}})


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    return tmp_path / "adapters" / "runs"


def write(run, **status):
    """A run's folder with a status and the configuration of SETTINGS."""
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps(status))
    (run / "config.yaml").write_text(yaml.safe_dump(SETTINGS.model_dump()))
    return run


def test_a_manifest_counts_where_it_describes_the_rows(tmp_path):
    from kit import publish
    from training import run_facts

    rows, manifest = tmp_path / "train_sft.jsonl", tmp_path / "manifest.json"
    rows.write_text('{"messages": []}\n')
    assert run_facts.manifest_of(rows) is None
    files = {rows.name: {"sha256": publish.sha256(rows), "rows": 1}}
    manifest.write_text(json.dumps({"format": 1, "files": files}))
    assert run_facts.manifest_of(rows) == publish.sha256(manifest)
    rows.write_text('{"messages": [1]}\n')
    assert run_facts.manifest_of(rows) is None
    for text in ("[]", "{", '{"files": []}', '{"files": {"train_sft.jsonl": 1}}'):
        manifest.write_text(text)
        assert run_facts.manifest_of(rows) is None


@pytest.mark.parametrize("name", ["../../escape", "..", "--x", "a b", "one/two", ".a", "x" * 129])
def test_a_run_id_is_a_plain_name(runs, name):
    for words in ((None, name), (name, None)):
        with pytest.raises(console.Misuse, match="is no run id"):
            resume.choose_run(*words, SETTINGS)
    assert not runs.exists()


def test_a_run_is_never_written_over(runs):
    write(runs / "one", state="completed")
    before = sorted((p.name, p.read_bytes()) for p in (runs / "one").iterdir())
    with pytest.raises(console.Misuse, match="already.*another --run-id"):
        resume.choose_run(None, "one", SETTINGS)
    assert sorted((p.name, p.read_bytes()) for p in (runs / "one").iterdir()) == before
    (runs / "one" / "status.json").unlink()
    with pytest.raises(console.Misuse, match="already"):
        resume.choose_run(None, "one", SETTINGS)


def test_a_folder_that_the_panel_made_is_begun_and_left_as_it_was(runs):
    (runs / "two").mkdir(parents=True)
    (runs / "two" / "job.json").write_text("{}")
    (runs / "two" / "output.txt").write_text("")
    assert resume.choose_run(None, "two", SETTINGS) == (runs / "two", None)
    run_lock.release_unused(runs / "two")
    assert (runs / "two" / "job.json").exists()


def test_a_run_that_never_began_leaves_no_folder(runs):
    run, _ = resume.choose_run(None, "three", SETTINGS)
    assert run.is_dir()
    run_lock.release_unused(run)
    assert not run.exists()


HOLD = """
import sys
from pathlib import Path
from training import run_lock
run_lock.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("words", [("begun", None), (None, "fresh")])
def test_two_processes_never_train_one_run(runs, words):
    run = write(runs / "begun", state="stopped") if words[0] else runs / "fresh"
    run.mkdir(parents=True, exist_ok=True)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")})  # fmt: skip
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(console.Problem, match="another process is training"):
            resume.choose_run(*words, SETTINGS)
    finally:
        other.communicate()
    assert resume.choose_run(*words, SETTINGS)[0] == run, "the lock ends with its process"


WORKER = """
import os, sys
from pathlib import Path
from training import run_lock
run_lock.hold(Path(sys.argv[1]))
if os.fork() == 0:
    print("at work", flush=True)
    sys.stdin.read()
os._exit(0)
"""


def test_a_worker_that_outlives_its_trainer_holds_no_run(runs):
    run = write(runs / "killed", state="stopped")
    trainer = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")})  # fmt: skip
    assert trainer.stdout.readline() == b"at work\n"
    assert trainer.wait(timeout=60) == 0
    assert resume.choose_run("killed", None, SETTINGS)[0] == run
    trainer.communicate()


@pytest.mark.parametrize("text", ['{"x"', "{}", "[]", '{"state": 3}'])
def test_a_damaged_status_is_named_and_hides_no_other_run(runs, capsys, text):
    write(runs / "a-good", state="stopped")
    write(runs / "b-bad")
    (runs / "b-bad" / "status.json").write_text(text)
    with pytest.raises(console.Problem, match=r"b-bad/status\.json: damaged.*; restore"):
        resume.choose_run("b-bad", None, SETTINGS)
    assert resume.choose_run("latest", None, SETTINGS)[0].name == "a-good"
    assert "b-bad/status.json: damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "step"),
    [
        ([([], []), ([], [])], None),
        ([(["40", "20"], ["40", "20"]), (["20"], ["20"])], "20"),  # the second died in saving 40
        ([(["40", "20"], ["20"]), (["40", "20"], ["40", "20"])], "20"),
        ([(["40", "20"], ["40", "20"]), (["40", "20"], [])], "40"),  # copied from another host
        ([(["100", "20"], ["100", "20"]), (["20", "100"], ["20", "100"])], "100"),
    ],
)
def test_processes_go_on_from_the_newest_checkpoint_that_all_have(runs, answers, step):
    named = [tuple([f"checkpoint-{n}" for n in names] for names in lists) for lists in answers]
    chosen = resume.newest_common(runs / "a", named)
    assert chosen == (step and runs / "a" / "checkpoints" / f"checkpoint-{step}")


def test_without_a_common_checkpoint_no_process_begins_anew(runs):
    """Else a replaced host would end what the others have: a new run removes old checkpoints."""
    first = (["checkpoint-40"], ["checkpoint-40"])
    with pytest.raises(console.Problem, match="process 1 has none; copy the newest folder"):
        resume.newest_common(runs / "a", [first, ([], [])])
    with pytest.raises(console.Problem, match="whole on every host; copy"):
        resume.newest_common(runs / "a", [first, (["checkpoint-20"], [])])


def test_a_process_without_its_random_state_is_named(capsys):
    resume.warn_of_random_state("checkpoint-40", [["checkpoint-40"], ["checkpoint-40"]])
    assert capsys.readouterr().err == ""
    resume.warn_of_random_state("checkpoint-40", [["checkpoint-40"], ["checkpoint-20"], []])
    assert "checkpoint-40: process 1, 2 has no random state" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [(None, "missing"), ("a: [", "damaged")])
def test_a_run_without_its_configuration_cannot_go_on(runs, text, expected):
    run = write(runs / "four", state="stopped")
    (run / "config.yaml").unlink()
    if text:
        (run / "config.yaml").write_text(text)
    with pytest.raises(console.Problem, match=rf"config\.yaml: {expected}.*(new run|move)"):
        resume.choose_run("four", None, SETTINGS)


def test_the_heartbeat_goes_on_after_a_write_that_failed(tmp_path):
    writer = run_folder.RunFolder(tmp_path, beat_seconds=0.005)
    (tmp_path / ".status.json.part").mkdir()  # the first writes fail
    beating = threading.Thread(target=writer._beat, daemon=True)
    beating.start()
    while "heartbeat" not in writer.status:
        assert beating.is_alive()
    (tmp_path / ".status.json.part").rmdir()
    while not writer.file.exists():
        assert beating.is_alive()
    writer.end("stopped")
    assert run_folder.read_status(tmp_path)["state"] == "stopped"


def test_the_log_is_written_when_nobody_reads_stderr(tmp_path, monkeypatch):
    reader, end = os.pipe()
    os.close(reader)
    raw = os.fdopen(end, "w", buffering=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", raw)
        run_folder.RunFolder(tmp_path).log("step 1")
    os.dup2(os.open(os.devnull, os.O_WRONLY), raw.fileno())
    assert "step 1" in (tmp_path / "log.txt").read_text()
