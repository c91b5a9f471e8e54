"""A run's folder as it is read: an odd file is one line; that a run is alive is proved."""

import json
import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import console
from support.checkout import ROOT
from training import resume, run_folder, run_lock, run_schema

DEEP = '{"state": ' * 20_000 + "1" + "}" * 20_000
GOOD = {"state": "stopped", "step": 3, "max_steps": 5, "started": 1.0, "heartbeat": 2.5}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    folder = tmp_path / "adapters" / "runs" / "one"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        (DEEP, "not JSON"),
        (json.dumps(GOOD | {"extra": [[[[[[[[[[[[[1]]]]]]]]]]]]]}), "nested deeper"),
        (json.dumps(GOOD | {"state": "dancing"}), "is not a state"),
        (json.dumps(GOOD | {"pid": "7"}), "its pid is not a count"),
        (json.dumps(GOOD | {"pid": -1}), "its pid is not a count"),
        (json.dumps(GOOD | {"step": True}), "its step is not a count"),
        (json.dumps(GOOD | {"heartbeat": float("inf")}), "its heartbeat is not a time"),
        (json.dumps(GOOD | {"heartbeat": [1]}), "its heartbeat is not a time"),
        ('{"state": "stopped", "step": ' + "9" * 5000 + "}", "not JSON"),
        (json.dumps(GOOD | {"loss": "low"}), "its loss is not a measure"),
        (json.dumps(GOOD | {"host": {"a": 1}}), "its host is not a text"),
        (json.dumps(GOOD | {"objective": 3}), "its objective is not a object"),
    ],
)
def test_an_odd_status_is_one_line_and_hides_no_other_run(run, capsys, text, why):
    (run / "status.json").write_text(text)
    other = run.with_name("two")
    other.mkdir()
    (other / "status.json").write_text(json.dumps(GOOD))
    with pytest.raises(console.Problem, match=f"damaged, .*{why}") as problem:
        run_folder.read_status(run)
    assert "\n" not in str(problem.value)
    assert [folder.name for folder, _ in run_folder.read_all(run.parent)] == ["two"]
    assert "one/status.json: damaged" in capsys.readouterr().err


def test_a_pipe_a_link_to_nothing_and_a_huge_file_are_damaged_too(run):
    os.mkfifo(run / "status.json")
    with pytest.raises(console.Problem, match="not a regular file"):
        run_folder.read_status(run)
    (run / "status.json").unlink()
    with (run / "status.json").open("wb") as f:
        f.truncate(run_schema.MOST_BYTES + 1)
    with pytest.raises(console.Problem, match="more than 4 MB"):
        run_folder.read_status(run)


def test_a_loss_of_nan_and_keys_of_a_newer_writer_are_no_damage(run):
    (run / "status.json").write_text(json.dumps(GOOD | {"loss": float("nan"), "new": {"a": [1]}}))
    assert run_folder.read_status(run)["new"] == {"a": [1]}


def test_metrics_leave_out_what_is_no_row(run):
    lines = ['{"step": 1, "loss": 0.5}', '{"step": -1, "loss": 1}', "[1]", '{"step": 2, "lo']
    lines += ['{"step": 3, "time": "x", "loss": 1}', '{"step": 4, "loss": NaN, "note": "x"}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    assert [row["step"] for row in run_folder.read_metrics(run)] == [1, 4]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*run_schema.STATUS, "odd"]), json_values))
def test_any_json_object_is_a_status_or_damaged(value):
    try:
        status = run_schema.status(json.dumps(value))
    except run_schema.DamagedFile:
        return
    assert status["state"] in run_schema.STATES
    for key in ("step", "max_steps", "pid"):
        assert status.get(key) is None or status[key] >= 0
    for key in ("heartbeat", "started"):
        assert status.get(key) is None or 0 <= status[key] < 1e16


# --- alive ----------------------------------------------------------------------------------------

TRAINER = """
import sys
from pathlib import Path
from training import run_folder, run_lock
run = Path(sys.argv[-1])
run_lock.hold(run)
writer = run_folder.RunFolder(run)
writer.begin()
print("training", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def trainer(run, tmp_path):
    """A process that holds a run and writes its status, under a trainer's name."""
    script = tmp_path / "lora_trainer.py"
    script.write_text(TRAINER)
    process = subprocess.Popen(
        [sys.executable, str(script), str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")})  # fmt: skip
    assert process.stdout.readline() == b"training\n"
    yield process
    process.kill()
    process.communicate()


def change(run, **values):
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | values))


def test_a_run_is_alive_while_its_process_holds_the_lock(run, trainer):
    assert run_folder.alive(run)
    trainer.kill()
    trainer.wait()
    assert not run_folder.alive(run), "a killed process is gone at once, without a heartbeat's age"


def test_a_status_that_names_another_process_is_not_alive(run, trainer):
    """A folder from a host names any process of the user's; only the run's own counts."""
    status = run_folder.read_status(run)
    for pid in (os.getpid(), 1, 0):
        assert not run_folder.alive(run, status | {"pid": pid})
    assert not run_folder.alive(run, status | {"command": ["sleep", "1000"]})
    assert not run_folder.alive(run, status | {"command": None})
    assert not run_folder.alive(run, status | {"host": "gpu1"})
    assert not run_folder.alive(run, status | {"state": "stopped"})


def test_a_copied_folder_is_never_running_here(run, trainer):
    """It has the same files, `.lock` too, but nobody holds that lock."""
    copy = run.with_name("copy")
    copy.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    assert run_folder.alive(run) and not run_folder.alive(copy)


def test_a_process_that_is_no_trainer_is_never_named(run):
    own = {"state": "running", "host": socket.gethostname(), "pid": os.getpid(),
           "command": run_lock.own_command()}  # fmt: skip
    run_lock.hold(run)
    assert run_lock.holder(run) == os.getpid()
    assert run_folder.alive(run, own) is run_lock.is_trainer(own["command"]) is False


# --- resume compares what the run stands on -------------------------------------------------------

FACTS = {"train_sha256": "a", "val_sha256": "b", "chat_template_sha256": "c", "world_size": 1,
         "tokenizer_sha256": "t", "special_tokens_sha256": "s",
         "base_identity": {"config_sha256": "d", "weights_sha256": "e"}, "start": None}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"train_sha256": "x"}, "the rows of data.train_file"),
        ({"val_sha256": None}, "the rows of data.val_file"),
        ({"chat_template_sha256": "x"}, "the chat template"),
        ({"tokenizer_sha256": "x"}, "the tokenizer"),
        ({"special_tokens_sha256": "x"}, "the special tokens"),
        ({"base_identity": {"config_sha256": "d", "weights_sha256": "x"}}, "the base model"),
        ({"world_size": 2}, "1 process"),
    ],
)
def test_a_resumed_run_stands_on_what_it_began_with(run, change, name):
    (run / "run.json").write_text(json.dumps(FACTS))
    resume.refuse_other_inputs(run, dict(FACTS))
    with pytest.raises(console.Misuse, match=f"one began with .*{name}"):
        resume.refuse_other_inputs(run, FACTS | change)


def test_a_run_of_an_older_tandem_is_compared_by_what_it_recorded(run):
    old = {"train_sha256": "a", "base_identity": {"config_sha256": "d"}}
    (run / "run.json").write_text(json.dumps(old))
    resume.refuse_other_inputs(run, FACTS)
