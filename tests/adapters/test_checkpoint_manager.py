"""checkpoint_manager.py as its users call it: register, list, show, verify, retire, diff."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import adapter_runs
from support.checkout import ROOT


@pytest.fixture
def version(manage, tmp_path):
    """mapper-lora@v1.0.0 in tmp_path, registered by the command; its folder."""
    adapter_runs.run(tmp_path)
    manage("register", "r1", "--name", "mapper-lora")
    return tmp_path / "adapters" / "mapper-lora" / "v1.0.0"


def test_a_completed_run_becomes_version_1_with_a_card_of_what_it_stands_on(manage, tmp_path):
    run = adapter_runs.run(tmp_path, report=adapter_runs.report(0.6, base=0.4))
    done = manage("register", run, "--name", "mapper-lora", "--json")
    assert json.loads(done.stdout)["reference"] == "mapper-lora@v1.0.0"
    card = json.loads((tmp_path / "adapters/mapper-lora/v1.0.0/card.json").read_text())
    assert card["base"]["name"] == "models/tiny" and card["base"]["revision"] == "abc"
    assert card["base"]["config_sha256"] and card["base"]["weights_sample_sha256"]
    assert card["config"] == {"training": {"learning_rate": 0.0002}}
    assert card["environment_lock_sha256"] == "2" * 64 and card["run"]["seed"] == 42
    assert card["evaluation"]["metrics"]["f1"]["value"] == 0.6
    assert card["gate"]["status"] == "passed"
    assert set(card["files"]) == {
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
        "tokenizer_config.json", "report.json",
    }  # fmt: skip


def test_the_version_names_no_path_of_the_machine_it_was_trained_on(manage, tmp_path):
    there = str(tmp_path / "models" / "tiny")
    run = adapter_runs.run(tmp_path, facts={"base_model": there}, base_model_name_or_path=there)
    (run / "final" / "README.md").write_text(f"base_model: {there}\n")
    (run / "config.yaml").write_text(f"model:\n  model_name_or_path: {there}\n")
    manage("register", "r1", "--name", "mapper-lora")
    folder = tmp_path / "adapters" / "mapper-lora" / "v1.0.0"
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert json.loads((folder / "adapter_config.json").read_text())[
        "base_model_name_or_path"] == "models/tiny"  # fmt: skip


def test_pickles_and_checkpoints_of_a_run_stay_behind(manage, tmp_path):
    final = adapter_runs.run(tmp_path) / "final"
    (final / "training_args.bin").write_bytes(b"a pickle")
    (final / "checkpoint-5").mkdir()
    (final / "checkpoint-5" / "optimizer.pt").write_bytes(b"a pickle")
    manage("register", "r1", "--name", "mapper-lora")
    names = {p.name for p in (tmp_path / "adapters/mapper-lora/v1.0.0").iterdir()}
    assert "training_args.bin" not in names and "checkpoint-5" not in names


def test_a_reward_model_is_no_version(manage, tmp_path):
    adapter_runs.run(tmp_path, task_type="SEQ_CLS")
    done = manage("register", "r1", "--name", "m", fails=1)
    assert "adapter_config.json: task_type SEQ_CLS" in done.stderr


def test_links_and_names_that_not_every_system_takes_are_refused(manage, tmp_path):
    final = adapter_runs.run(tmp_path) / "final"
    (final / "a b.json").write_text("{}")
    assert "a b.json: a name" in manage("register", "r1", "--name", "m", fails=1).stderr
    (final / "a b.json").unlink()
    (final / "link.json").symlink_to("/etc/hostname")
    assert "link.json: a link" in manage("register", "r1", "--name", "m", fails=1).stderr
    assert list((tmp_path / "adapters" / "m").iterdir()) == []


@pytest.mark.parametrize("state", ["running", "stopped", "failed", "planned"])
def test_a_run_that_is_not_completed_is_refused(manage, tmp_path, state):
    adapter_runs.run(tmp_path, state=state)
    done = manage("register", "r1", "--name", "mapper-lora", fails=1)
    assert f"the run r1 is {state}, not completed; " in done.stderr
    assert not (tmp_path / "adapters" / "mapper-lora").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [("config.yaml", "model: ["), ("config.yaml", "- 1"), ("config.yaml", "model: 3"),
     ("run.json", "[]"), ("run.json", '{"base_model": 3}'), ("status.json", "{")],
)  # fmt: skip
def test_a_damaged_file_of_a_run_is_named_and_no_version_made(manage, tmp_path, file, text):
    run = adapter_runs.run(tmp_path)
    (run / file).write_text(text)
    done = manage("register", run, "--name", "m", fails=1)
    assert f"{run}/{file}: " in done.stderr and "copy the run again" in done.stderr
    assert not (tmp_path / "adapters" / "m").exists()


def test_an_unknown_run_is_answered_with_the_nearest_one(manage, tmp_path):
    adapter_runs.run(tmp_path, "20261121-081530-3f2a")
    done = manage("register", "20261121-081530-3f2b", "--name", "m", fails=2)
    assert "did you mean 20261121-081530-3f2a?" in done.stderr


@pytest.mark.parametrize("name", ["Mapper", "a/b", "../x", "runs", "", "-x", "a" * 65, "é"])
def test_a_name_that_could_not_be_a_folder_everywhere_is_refused(manage, tmp_path, name):
    adapter_runs.run(tmp_path)
    assert "cannot be an adapter's name" in manage(
        "register", "r1", f"--name={name}", fails=2).stderr  # fmt: skip


def test_without_bump_the_number_says_what_changed(manage, tmp_path):
    adapter_runs.run(tmp_path, "r1")
    adapter_runs.run(tmp_path, "again", adapter_runs.tensors(seed=2))
    adapter_runs.run(tmp_path, "data", facts={"train_sha256": "3" * 64})
    template = adapter_runs.run(tmp_path, "template", facts={"train_sha256": "3" * 64})
    (template / "final" / "chat_template.jinja").write_text("other")
    given = [
        manage("register", run, "--name", "m").stdout.strip()
        for run in ("r1", "again", "data", "template")
    ]
    assert given == ["m@v1.0.0", "m@v1.0.1", "m@v1.1.0", "m@v2.0.0"]


def test_bump_decides_the_number(manage, tmp_path):
    adapter_runs.run(tmp_path)
    for bump, expected in (("patch", "v1.0.0"), ("minor", "v1.1.0"), ("patch", "v1.1.1"),
                           ("major", "v2.0.0")):  # fmt: skip
        done = manage("register", "r1", "--name", "m", "--bump", bump)
        assert done.stdout.strip() == f"m@{expected}"


def test_a_second_version_with_the_same_weights_is_said(manage, version):
    done = manage("register", "r1", "--name", "mapper-lora")
    assert "mapper-lora@v1.0.0 has the same weights" in done.stderr


def test_list_and_show_give_versions_for_people_and_programs(
    manage, version, tmp_path, monkeypatch
):
    assert "mapper-lora@v1.0.0" in manage("list").stdout
    rows = json.loads(manage("list", "mapper-lora", "--json").stdout)["versions"]
    assert [row["reference"] for row in rows] == ["mapper-lora@v1.0.0"]
    card = json.loads(manage("show", "mapper-lora", "--json").stdout)
    assert card["folder"] == str(version) and card["adapter"]["r"] == 4
    monkeypatch.chdir(tmp_path)
    shown = manage("show", "mapper-lora").stdout
    assert "--max-lora-rank 8" in shown and "  folder    adapters/mapper-lora/v1.0.0\n" in shown


def test_an_unknown_version_is_answered_with_those_that_there_are(manage, version):
    done = manage("show", "mapper-lora@v9.0.0", fails=2)
    assert "mapper-lora has no version v9.0.0; there are: v1.0.0" in done.stderr
    done = manage("verify", "maper-lora@v1.0.0", fails=2)
    assert "did you mean mapper-lora?" in done.stderr
    done = manage("verify", "mapper-lora@new", fails=2)
    assert "@new is not a version; write @v1.0.0" in done.stderr


def test_a_sound_version_verifies_and_says_that_the_base_is_the_same(manage, version):
    assert "base: same" in manage("verify", "mapper-lora@v1.0.0").stdout
    shutil.rmtree(version.parents[2] / "models")
    assert "base: not on this machine" in manage("verify", "mapper-lora@v1.0.0").stdout


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json",
                                  "chat_template.jinja", "tokenizer_config.json"])  # fmt: skip
def test_one_flipped_byte_is_found_and_its_file_named(manage, version, file):
    data = bytearray((version / file).read_bytes())
    data[-1] ^= 1
    adapter_runs.rewrite(version / file, bytes(data))
    done = manage("verify", "mapper-lora@v1.0.0", "--json", fails=1)
    assert json.loads(done.stdout)["file"] == file
    assert f"checkpoint_manager.py: {file}: its SHA-256 is" in done.stderr


def test_missing_added_and_longer_files_are_found(manage, version):
    (version / "notes.txt").write_text("mine")
    assert "notes.txt: not in the card" in manage("verify", "mapper-lora", fails=1).stderr
    (version / "notes.txt").unlink()
    adapter_runs.rewrite(version / "tokenizer_config.json", "{}  ")
    assert "4 bytes, the card says 2" in manage("verify", "mapper-lora", fails=1).stderr
    (version / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json: missing" in manage("verify", "mapper-lora", fails=1).stderr


@pytest.mark.parametrize("card", ["", "[]", "{}", '{"format": 1}', '{"format": 2}', "\xff"])
def test_a_damaged_card_is_one_line(manage, version, card):
    adapter_runs.rewrite(version / "card.json", card)
    assert "card.json: " in manage("verify", "mapper-lora", fails=1).stderr
    assert "mapper-lora@v1.0.0           DAMAGED  card.json: " in manage("list").stdout
    done = manage("register", "r1", "--name", "mapper-lora")
    assert "mapper-lora@v1.0.0 is left out: card.json" in done.stderr
    assert done.stdout.strip() == "mapper-lora@v2.0.0"  # nothing is known to compare with


def test_another_base_in_the_bases_place_is_found_though_shapes_are_equal(manage, version):
    adapter_runs.base(version.parents[2] / "models" / "tiny", seed=9)
    done = manage("verify", "mapper-lora", fails=1)
    assert "not the base model of mapper-lora@v1.0.0: its weights differs" in done.stderr


def test_a_base_lies_elsewhere_on_another_machine(manage, version, tmp_path):
    shutil.move(tmp_path / "models" / "tiny", tmp_path / "elsewhere")
    assert "base: same" in manage(
        "verify", "mapper-lora", "--base", tmp_path / "elsewhere").stdout  # fmt: skip
    assert "no base model at" in manage(
        "verify", "mapper-lora", "--base", tmp_path / "nowhere", fails=2).stderr  # fmt: skip


def test_a_retired_version_is_passed_over_and_its_number_never_given_again(manage, version):
    manage("register", "r1", "--name", "mapper-lora")
    manage("retire", "mapper-lora@v1.0.1", "--reason", "answers in French")
    assert json.loads(manage("show", "mapper-lora", "--json").stdout)["version"] == "v1.0.0"
    shown = manage("show", "mapper-lora@v1.0.1").stdout
    assert "RETIRED" in shown and "answers in French" in shown
    shutil.rmtree(version.parent / "v1.0.1")
    assert manage("register", "r1", "--name", "mapper-lora").stdout.strip() == "mapper-lora@v1.0.2"


def test_retire_wants_a_version_and_a_reason_and_can_be_undone(manage, version):
    assert "name the version" in manage("retire", "mapper-lora", "--reason", "x", fails=2).stderr
    assert "needs a reason" in manage("retire", "mapper-lora@v1.0.0", fails=2).stderr
    manage("retire", "mapper-lora@v1.0.0", "--reason", "x")
    assert "v1.0.0 (retired)" in manage("show", "mapper-lora@latest", fails=2).stderr
    manage("retire", "mapper-lora@v1.0.0", "--undo")
    manage("verify", "mapper-lora@latest")


def test_diff_names_what_changed_in_card_files_and_weights(manage, version, tmp_path):
    run = adapter_runs.run(tmp_path, "r2", adapter_runs.tensors(seed=2))
    (run / "config.yaml").write_text("training:\n  learning_rate: 0.0001\n")
    manage("register", "r2", "--name", "mapper-lora")
    difference = json.loads(manage("diff", "mapper-lora@1.0.0", "mapper-lora", "--json").stdout)
    assert difference["card"] == {"config.training.learning_rate": [0.0002, 0.0001]}
    assert difference["files"] == ["adapter_model.safetensors"]
    import numpy as np

    module = difference["weights"][0]["module"]
    updates = []
    for tensors in (adapter_runs.tensors(1), adapter_runs.tensors(2)):
        a, b = (tensors[f"base_model.model.{module}.lora_{x}.weight"] for x in "AB")
        updates.append(8 / 4 * b.astype("f8") @ a)
    assert difference["weights"][0]["difference"] == pytest.approx(
        np.linalg.norm(updates[1] - updates[0])
    )
    assert difference["weights"][0]["old"] == pytest.approx(np.linalg.norm(updates[0]))


def start(tmp_path, run: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "checkpoint_manager.py", "register", run,
         "--name", "mapper-lora", "--bump", "patch"],
        env=os.environ | {"TANDEM_WORKDIR": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_registrations_at_the_same_time_get_different_versions(manage, tmp_path):
    adapter_runs.run(tmp_path)
    running = [start(tmp_path, "r1") for _ in range(6)]
    given = sorted(process.communicate()[0].strip() for process in running)
    assert given == [f"mapper-lora@v1.0.{i}" for i in range(6)]
    for reference in given:
        manage("verify", reference)


def wait_for(folder: Path, pattern: str, process: subprocess.Popen) -> None:
    """Return as soon as a path matches, or when the process has ended."""
    while process.poll() is None and not any(folder.glob(pattern)):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("moment", [".v*.part", ".v*.part/adapter_config.json",
                                    ".v*.part/tokenizer.json", ".v*.part/card.json"])  # fmt: skip
def test_a_kill_never_leaves_half_a_version(manage, tmp_path, moment):
    run = adapter_runs.run(tmp_path)
    with (run / "final" / "tokenizer.json").open("wb") as f:
        f.truncate(256 << 20)  # holes: takes a while to copy and to hash, and no disk here
    folder = tmp_path / "adapters" / "mapper-lora"
    process = start(tmp_path, "r1")
    wait_for(folder, moment, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if (folder / "v1.0.0").exists():  # the kill came too late: then it is whole
        manage("verify", "mapper-lora@v1.0.0")
    else:
        assert "no versions yet" in manage("list").stdout
    (run / "final" / "tokenizer.json").unlink()
    given = manage("register", "r1", "--name", "mapper-lora").stdout.strip()
    manage("verify", given)


def test_what_a_kill_left_is_swept_once_it_is_old(manage, tmp_path):
    adapter_runs.run(tmp_path)
    old = tmp_path / "adapters" / "mapper-lora" / ".v1.0.0.abc.part"
    fresh = tmp_path / "adapters" / "mapper-lora" / ".v1.0.0.def.part"
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "card.json").write_text("{}")
    for path in (old / "card.json", old):
        os.utime(path, (1, 1))
    manage("register", "r1", "--name", "mapper-lora")
    assert not old.exists() and fresh.exists()


@pytest.mark.slow
def test_help_of_every_subcommand_needs_no_package():
    script = ROOT / "scripts" / "checkpoint_manager.py"
    for name in ("register", "list", "show", "verify", "pack", "unpack", "load", "diff", "retire",
                 "export", "canary"):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-S", script, name, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr
