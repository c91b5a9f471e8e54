"""The shell that a command keeps on a host: what it may do without an answer being taken wrong."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from kit import console
from support.processes import wait_until
from transfer import address, remote_script
from transfer.frame import AnswerLimits
from transfer.host import FolderHost
from transfer.retries import ConnectionLost


class LoginHost(FolderHost):
    """A folder host whose login runs `start_file` (shell text) before each command."""

    start_file = ""

    def _launch(self, command, pipes):
        script = f"{self.start_file}\n{command}"
        return subprocess.Popen(["/bin/sh", "-c", script], cwd=self.folder.parent, **pipes)


@pytest.fixture
def host(tmp_path):
    (tmp_path / "there").mkdir()
    made = LoginHost(address.parse(str(tmp_path / "there"), "tandem"))
    made.open()
    yield made
    made.close()


READERS = ["read -r x", "read -r x; read -r x", "dd bs=1 count=7 >/dev/null 2>&1",
           "dd bs=1 count=60 >/dev/null 2>&1"]  # fmt: skip


@pytest.mark.parametrize("start_file", READERS)
@pytest.mark.parametrize("kept", [True, False])
def test_of_a_script_whose_beginning_a_start_file_reads_nothing_runs(
    host, tmp_path, start_file, kept
):
    host.start_file = start_file
    script = f"first=1\n[ -n \"$first\" ] || rm -rf '{tmp_path}/thesis'\ntouch '{tmp_path}/ran'"
    data = f"\ntouch '{tmp_path}/data-ran'\n".encode() * 9
    with pytest.raises(console.Problem, match="start-up file of this login reads the standard"):
        host.run_in_shell(script, "") if kept else host.run(script, data)
    assert not list(tmp_path.glob("*ran"))


def test_a_start_file_that_reads_everything_is_no_answer(host, tmp_path):
    host.start_file = "cat"
    with pytest.raises(console.Problem, match="no answer within 1 s"):
        host.run_in_shell(f"touch '{tmp_path}/ran'", "", limits=AnswerLimits(silence=1))
    assert not (tmp_path / "ran").exists()


def test_what_is_printed_between_two_answers_belongs_to_neither(host):
    host.start_file = "while sleep 0.01; do echo noise; done &"
    for n in range(3):
        assert f"answer {n}\n".encode() in host.run_in_shell(f"echo answer {n}", "")


def test_a_process_that_a_script_leaves_behind_holds_up_no_answer(host):
    left = int(host.run_in_shell("sleep 60 & echo $!", ""))
    assert host.run_in_shell("echo two", "") == b"two\n"
    os.kill(left, signal.SIGKILL)


def test_a_kept_shell_that_ends_between_two_answers_is_a_lost_connection(host, monkeypatch):
    """Its exit code says nothing: the login did run commands."""
    monkeypatch.setattr(LoginHost, "is_folder", False)
    assert host.run_in_shell("echo one", "") == b"one\n"
    kept = host._kept
    kept.process.stdin.close()
    with monkeypatch.context() as patch, pytest.raises(ConnectionLost, match="was lost"):
        patch.setattr(kept.process, "poll", lambda: None)  # it is noticed by its answer alone
        host.run_in_shell("echo two", "")
    assert host.run_in_shell("echo three", "") == b"three\n"


@pytest.mark.slow
def test_a_kept_shell_that_fills_stderr_while_nobody_reads_is_ended(host, monkeypatch):
    monkeypatch.setattr(remote_script, "LOOK_SECONDS", 0.01)
    host.start_file = "{ sleep 0.1; head -c 100000 /dev/zero >&2; sleep 9; } &"
    host.log_in()
    host._kept.bound_errors(4096)
    process = host._kept.process
    wait_until(lambda: process.poll() is not None)
