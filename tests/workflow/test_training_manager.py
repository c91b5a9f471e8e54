"""The manager plans, names what is missing, does each stage once, and continues after a kill."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

import training_manager
from kit import console, report
from support import preferences, tiny
from support.checkout import ROOT
from support.processes import wait_until

needs_local = pytest.mark.skipif(
    not (ROOT / ".venv-local" / "bin" / "python").exists(), reason="needs .venv-local"
)
needs_remote = pytest.mark.skipif(
    not (ROOT / ".venv-remote" / "bin" / "python").exists(), reason="needs .venv-remote"
)
READING = (
    "--set",
    "data_prep:deduplication.near=false",
    "--set",
    "data_prep:split.val_fraction=0.1",
)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty work folder with a raw file of twenty rows."""
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    preferences.write(tmp_path / "raw" / "rows.jsonl", tiny.rows(20))
    return tmp_path


def manage(*arguments):
    return training_manager.main([str(word) for word in arguments])


def prepare(work, *more):
    return manage("--stage", "data_prep", "--raw", work / "raw", *READING, "--confirm", *more)


def state_of(work):
    return json.loads((work / "adapters" / "runs" / "manager.json").read_text())


def planned(capsys, *arguments):
    capsys.readouterr()
    code = manage("--json", *arguments)
    return code, json.loads(capsys.readouterr().out)


@needs_local
def test_the_plan_names_every_stage_and_what_is_missing_and_writes_nothing(work, capsys):
    code, body = planned(capsys, "--raw", work / "raw", *READING)
    assert code == 1
    assert list(body["stages"]) == ["data_prep", "lora", "rlhf", "eval"]
    assert body["stages"]["data_prep"]["plan"]["rows"] == {
        "train_sft.jsonl": 18, "val_sft.jsonl": 2}  # fmt: skip
    checks = {check["name"]: check for check in body["checks"]}
    assert checks["lora: base model"]["status"] == "fail"
    assert "Llama-3.1-8B-Instruct" in checks["lora: base model"]["found"]
    assert checks["lora: opt-in"]["status"] == "warn"
    assert checks["rlhf"] == {"name": "rlhf", "status": "skip", "fix": "",
                             "found": "disabled (enabled: false in rlhf.yaml)"}  # fmt: skip
    assert not (work / "data").exists() and not (work / "adapters").exists()


@needs_remote
def test_training_needs_the_second_yes_in_the_configuration(work, monkeypatch):
    from workflow import tasks

    preferences.write(work / "data" / "processed" / "train_sft.jsonl", tiny.rows(4))
    preferences.write(work / "data" / "processed" / "val_sft.jsonl", tiny.rows(2))
    ready = lambda task, name: report.Check(f"{task}: base model", "ok", name)  # noqa: E731
    monkeypatch.setattr(tasks, "check_base", ready)
    monkeypatch.setattr(tasks.LoraTask, "run", lambda *_: {"run": "trained"})
    with pytest.raises(console.Problem) as refusal:
        manage("--stage", "lora", "--confirm")
    assert refusal.value.text == "lora: opt-in: training_config.yaml says dry_run: true"
    assert "--set safety.dry_run=false" in refusal.value.remedy
    assert state_of(work)["state"] == "failed"
    assert manage("--stage", "lora", "--confirm", "--set", "safety.dry_run=false") == 0
    assert state_of(work)["stages"]["lora"]["result"] == {"run": "trained"}


@needs_local
@pytest.mark.slow
def test_each_stage_is_done_once_until_what_it_stands_on_changes(work, capsys):
    assert prepare(work) == 0
    began = state_of(work)["stages"]["data_prep"]["ended"]
    assert prepare(work) == 0 and "done: rows: train_sft 18, val_sft 2" in capsys.readouterr().out
    assert state_of(work)["stages"]["data_prep"]["ended"] == began

    def why(*more):
        words = ("--stage", "data_prep", "--raw", work / "raw", *READING, *more)
        return planned(capsys, *words)[1]["stages"]["data_prep"]["why"]

    assert why("--set", "data_prep:seed=5") == "changed: config"
    assert why("--again") == "asked for again"
    preferences.write(work / "raw" / "more.jsonl", tiny.rows(10, seed=9))
    assert why() == "changed: raw"
    assert prepare(work) == 0
    assert why().startswith("done")
    (work / "data" / "processed" / "val_sft.jsonl").write_text("")
    assert why() == "its result is gone"


@pytest.mark.slow
@needs_local
def test_data_that_is_there_is_never_replaced_by_generated_examples(work, capsys):
    assert prepare(work) == 0
    before = (work / "data" / "processed" / "train_sft.jsonl").read_bytes()
    (work / "adapters" / "runs" / "manager.json").unlink()
    _, body = planned(capsys)
    assert body["stages"]["data_prep"]["why"].endswith("as it is: rows: train_sft 18, val_sft 2")
    with pytest.raises(console.Problem, match="give --raw PATH, or --again to replace it"):
        manage("--stage", "data_prep", "--confirm")
    assert (work / "data" / "processed" / "train_sft.jsonl").read_bytes() == before


def test_a_collection_counts_as_changed_only_when_its_passages_change(work, capsys):
    pytest.importorskip("chromadb")
    from config.schemas.data import DocumentsSection
    from corpus.documents.passage_store import PassageStore, collection_hash

    words = ("--stage", "data_prep", "--collection", "pdf_docs")
    missing = planned(capsys, *words)[1]["checks"][-1]
    assert missing["name"] == "data_prep: collection" and "ingest_documents.py" in missing["fix"]
    store = PassageStore(DocumentsSection(dimensions=32), create=True)
    store.replace("a.txt", "a" * 64, "1", [("The river rises.", "A", 0), ("It falls.", "A", 0)])

    def collection():
        return collection_hash("pdf_docs")

    before = collection()
    assert before and store.search(["river"], 1) and collection() == before
    store.replace("b.txt", "b" * 64, "1", [("The sea is wide.", "B", 0)])
    assert collection() != before
    assert collection_hash("pdf_docs", work / "absent") == ""


@needs_local
@pytest.mark.slow
def test_a_failed_stage_names_the_cause_and_the_same_command_goes_on_once_it_is_mended(
    work,
):
    bad = work / "raw" / "bad.jsonl"
    bad.write_text('{"messages": []}\n')
    with pytest.raises(console.Problem, match="data_prep: .*bad rows: 1"):
        prepare(work)
    state = state_of(work)
    assert state["state"] == "failed" and state["stages"]["data_prep"]["state"] == "failed"
    assert not (work / "data").exists()
    bad.unlink()
    assert prepare(work) == 0
    assert state_of(work)["state"] == "completed"


def test_several_processes_are_started_with_torchrun_and_one_without(work):
    for count, launcher in ((1, []), (2, ["-m", "torch.distributed.run"])):
        args = training_manager.parse(
            ["--processes", str(count), "--config", "lora:training_config_ddp.yaml"]
        )
        made, _ = training_manager.make_tasks(args)
        words = made["lora"].command("lora_trainer.py", processes=args.processes)
        assert words[1:3] == (launcher or [str(ROOT / "scripts" / "lora_trainer.py"), "--config"])
        assert "training_config_ddp.yaml" in words


def test_a_signal_stops_the_stages_command_and_the_state_says_so(work, monkeypatch):
    from workflow import task

    pid, log = work / "pid", work / ".cache" / "manager" / "01-data_prep.txt"
    works = f"echo $$ > {pid}; echo I work >&2; until grep -q '^I work' {log}; do :; done"
    stops = ["sh", "-c", f"{works}; kill -TERM $PPID; exec sleep 100"]
    monkeypatch.setattr(task.Task, "command", lambda *_: stops)
    monkeypatch.setattr(task.Task, "python", lambda self: sys.executable)
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with pytest.raises(SystemExit) as ended:
            prepare(work)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    state = state_of(work)
    assert state["state"] == state["stages"]["data_prep"]["state"] == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_signal_while_a_command_starts_leaves_no_process(work, monkeypatch):
    from workflow import stages

    started = []

    class Signalled(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(stages.subprocess, "Popen", Signalled)
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with pytest.raises(SystemExit):
            stages.Stage("sleeps", work / "log").run(["sleep", "100"])
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_the_state_has_the_keys_of_a_runs_status(work, monkeypatch):
    from workflow.manager_state import ManagerState

    state = ManagerState(work / "adapters" / "runs" / "manager.json")
    state.open(4)
    there = state_of(work)
    state.end("completed")
    assert {"run_id", "state", "pid", "host", "started", "heartbeat", "step"} <= set(there)
    assert there["state"] == "running" and there["pid"] == os.getpid()
    assert there["host"] == socket.gethostname() and there["max_steps"] == 4


def test_a_second_manager_is_refused_while_the_first_works(work):
    from workflow.manager_state import ManagerState

    first = ManagerState(work / "adapters" / "runs" / "manager.json")
    first.open(4)
    try:
        with pytest.raises(console.Problem, match="another manager is running"):
            ManagerState(first.file).open(4)
    finally:
        first.end("completed")
    ManagerState(first.file).open(4)


def test_a_damaged_state_file_is_one_clear_line(work):
    (work / "my.json").write_text("{")
    with pytest.raises(console.Problem, match=r"my\.json: not a state file of the manager"):
        manage("--state", work / "my.json")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "lorra:lora.r=8"], "name a stage before the colon"),
        (["--config", "training_config.yaml"], "name a stage before the colon"),
        (["--raw", "a", "--collection", "b"], "two sources"),
    ],
)
def test_a_wrong_call_exits_with_2(work, capsys, arguments, expected):
    with pytest.raises(SystemExit) as ended:
        manage(*arguments)
    assert ended.value.code == 2 and expected in capsys.readouterr().err


def test_settings_reach_their_stage_and_wrong_keys_are_refused_before_anything_runs(work):
    sets = ["training.max_steps=3", "eval:data.max_samples=4", "data_prep:length.tokenizer=a:b"]
    args = training_manager.parse([word for text in sets for word in ("--set", text)])
    assert args.overrides == {
        "data_prep": ["length.tokenizer=a:b"],
        "lora": ["training.max_steps=3"],
        "rlhf": [],
        "eval": ["data.max_samples=4"],
    }
    made, _ = training_manager.make_tasks(args)
    assert made["lora"].settings.training.max_steps == 3
    with pytest.raises(console.Misuse, match="did you mean max_samples"):
        manage("--set", "eval:data.max_sample=4")


# --- the whole, killed and resumed -------------------------------------------------------------


def launch(work, *more):
    fast = {"training.max_steps": 20, "training.per_device_train_batch_size": 8,
            "training.per_device_eval_batch_size": 8}  # fmt: skip
    rlhf = preferences.SETTINGS | {"training.max_steps": 4, "model.dtype": "bfloat16"} | fast
    words = [sys.executable, ROOT / "scripts" / "training_manager.py", "--json", "--confirm",
             "--raw", work / "raw", *READING, *tiny.options(),
             "--set", "safety.dry_run=false", "--set", "quantization.load_in_4bit=false",
             "--set", "eval:generation.max_new_tokens=8", "--set", "eval:data.max_samples=8",
             "--set", "eval:metrics.bootstrap_samples=100"]  # fmt: skip
    words += [word for k, v in rlhf.items() for word in ("--set", f"rlhf:{k}={v}")]
    return subprocess.Popen([*map(str, words), *more], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)  # fmt: skip


@needs_local
@pytest.mark.remote_env
@pytest.mark.slow
def test_killed_anywhere_it_goes_on_at_the_first_unfinished_stage(work):
    preferences.write(work / "raw" / "rows.jsonl", tiny.rows(200))
    preferences.write(work / "raw" / "pairs.jsonl", preferences.pairs(100))
    tiny.build(work, steps=60)
    runs = work / "adapters" / "runs"

    killed = launch(work)
    wait_until(lambda: any(runs.glob("*/checkpoints/checkpoint-5/trainer_state.json")), killed)
    run = state_of(work)["stages"]["lora"]["result"]["run"]
    trainer = json.loads((runs / run / "status.json").read_text())["pid"]
    killed.kill()
    os.kill(trainer, signal.SIGKILL)
    killed.communicate()
    assert state_of(work)["state"] == "running"  # it had no time to say otherwise
    prepared = state_of(work)["stages"]["data_prep"]
    assert prepared["state"] == "completed" and not (runs / run / "final").exists()

    process = launch(work)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert state_of(work)["stages"]["data_prep"] == prepared
    assert result["stages"]["lora"]["run"] == run
    assert json.loads((runs / run / "status.json").read_text())["resumed_from"]
    assert result["stages"]["rlhf"]["objective"]["after"]["margin"] > 0
    assert result["run"] == result["stages"]["rlhf"]["run"] != run
    assert list(result["stages"]["eval"]["reports"]) == [run, result["run"]]
    fine_tuned = result["stages"]["eval"]["reports"][run]
    assert fine_tuned["after"]["loss"]["value"] < fine_tuned["before"]["loss"]["value"]
    assert state_of(work)["state"] == "completed" and state_of(work)["step"] == 4
