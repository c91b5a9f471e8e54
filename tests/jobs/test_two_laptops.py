"""Two laptops, or a killed command and the next one, submit one job: it is started once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import threading
import time

import pytest

from jobs import files, submission
from kit import console
from support.ended_job import JOB, EndedJobDesk
from support.processes import wait_until


@pytest.fixture
def desk(tmp_path):
    return EndedJobDesk(tmp_path)


@pytest.mark.slow
def test_two_laptops_that_submit_at_once_start_one_job(desk):
    (desk.there / "hold").write_text("")
    words = ("sh", "-c", "echo began >>begun; while [ -e hold ]; do sleep 0.02; done")
    printed, outcomes = [], []

    def submit(number):
        host = desk.host_here()
        try:
            job = dataclasses.replace(JOB, name="both", words=words, run_id=f"run-{number}")
            outcomes.append(submission.submit(host, job)[1])
        except console.Problem as problem:
            printed.append(str(problem))
        finally:
            host.close()

    laptops = [threading.Thread(target=submit, args=(n,)) for n in range(4)]
    for laptop in laptops:
        laptop.start()
    for laptop in laptops:
        laptop.join()
    wait_until((desk.there / "begun").exists)
    (desk.there / "hold").unlink()
    wait_until((desk.folder.parent / "both" / "exit").exists)
    assert outcomes.count("started") == 1 and set(outcomes) <= {"started", "runs"}
    assert all("another laptop is submitting both" in line for line in printed)
    assert (desk.there / "begun").read_text() == "began\n"
    assert not list((desk.there / ".jobs").glob(".*submitting"))


@pytest.mark.slow
def test_the_lock_of_a_laptop_that_was_cut_off_ends_by_itself(desk):
    lock = desk.there / ".jobs" / ".train.submitting"
    lock.mkdir()
    host = desk.host_here()
    try:
        with (
            pytest.raises(console.Problem, match="at this moment"),
            files.submitting(host, "train"),
        ):
            pass
        old = time.time() - 600
        os.utime(lock, (old, old))
        with files.submitting(host, "train"):
            assert lock.is_dir()
    finally:
        host.close()
    assert not lock.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "taken"),
    [("{here} {dead}", True), ("{here} {alive}", False), ("ab12-other {dead}", False),
     ("{here} x", False), ("{here} -1", False), ("", False), ("\x1b[31m$(touch x)", False)],
)  # fmt: skip
def test_the_lock_of_a_killed_command_of_this_machine_is_taken_over(desk, owner, taken):
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock = desk.there / ".jobs" / ".train.submitting"
    lock.mkdir()
    facts = {"here": files._this_machine(), "dead": ended.pid, "alive": os.getpid()}
    if owner:
        (lock / "owner").symlink_to(owner.format(**facts))
    host = desk.host_here()
    try:
        outcome = contextlib.nullcontext() if taken else pytest.raises(console.Problem)
        with outcome, files.submitting(host, "train"):
            pass
    finally:
        host.close()
    assert lock.exists() is not taken
