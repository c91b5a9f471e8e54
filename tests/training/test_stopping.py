"""A signal ends a training at one step on every process, with a checkpoint; also in evaluations."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from support import tiny
from support.checkout import ROOT
from support.processes import wait_until
from support.trainer_process import CONFIRMED, environment, start

pytestmark = [pytest.mark.remote_env, pytest.mark.slow]

RANK = """
import os, signal, sys, time
import torch
from torch import distributed
from training import stopping
distributed.init_process_group("gloo")
request = stopping.StopRequest()
request.install()
here = os.environ["RANKS"] + "/" + str(distributed.get_rank())


def note(name, text):  # gloo prints to stdout too, in the middle of lines
    with open(here + name + ".part", "w") as f:
        f.write(text)
    os.rename(here + name + ".part", here + name)


note(".pid", str(os.getpid()))
for step in range(1, 100000):
    if distributed.get_rank() == 1:
        time.sleep(0.001)  # ranks of different pace
    if request.agree():
        break
note(".end", f"{step} {request.agreed}")
distributed.barrier()
"""


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_all_processes_stop_at_the_step_where_one_of_them_was_told(tmp_path, count, signum):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone",
             "--nproc_per_node", str(count), str(script)]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    env["RANKS"] = str(tmp_path)
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, stdout=quiet, stderr=subprocess.PIPE, text=True, env=env)
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == count, process)
    os.kill(int((tmp_path / f"{count - 1}.pid").read_text()), signum)
    _, errors = process.communicate(timeout=240)  # how gloo takes its leave is not the matter
    ends = [file.read_text().split() for file in tmp_path.glob("*.end")]
    assert len(ends) == count, errors
    assert len({step for step, _ in ends}) == 1, "every process stops at the same step"
    assert {number for _, number in ends} == {str(int(signum))}


def lines_until(process, text):
    """Read stderr up to the first line with `text`; the rest is drained in the background."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            break
    else:
        raise AssertionError("".join(seen))
    rest = threading.Thread(target=lambda: seen.extend(process.stderr), daemon=True)
    rest.start()
    return seen, rest


def ended(process, rest):
    code = process.wait(timeout=240)
    rest.join()
    return code, process.stdout.read()


def test_gpus_2_trains_on_two_processes_and_a_signal_stops_both_with_a_checkpoint(work):
    words = ("--gpus", "2", "--run-id", "two")
    process = start(work, *CONFIRMED, *words, training__max_steps=5000, training__eval_steps=5000,
                     training__save_steps=5000, training__logging_steps=2)  # fmt: skip
    seen, rest = lines_until(process, "step 2/")
    process.send_signal(signal.SIGUSR2)
    code, out = ended(process, rest)
    assert code == 128 + signal.SIGUSR2 and out == ""
    assert "Traceback" not in "".join(seen)
    run = work / "adapters" / "runs" / "two"
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "stopped"
    assert (run / "checkpoints" / f"checkpoint-{status['step']}" / "trainer_state.json").exists()
    assert json.loads((run / "run.json").read_text())["world_size"] == 2


def adapter(work, run):
    return (work / "adapters" / "runs" / run / "final" / "adapter_model.safetensors").read_bytes()


def evaluations(work, run):
    lines = (work / "adapters" / "runs" / run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]


STOP_IN_EVALUATION = """
import os, signal, sys
from training import stopping
agree, seen = stopping.StopRequest.agree, []
def counting(self):
    import inspect
    if any(frame.function == "on_prediction_step" for frame in inspect.stack()):
        seen.append(1)
        if len(seen) == 5:  # the third batch of the second evaluation has two before it
            os.kill(os.getpid(), signal.SIGTERM)
    return agree(self)
stopping.StopRequest.agree = counting
import lora_trainer
from kit import console
sys.argv[0] = "lora_trainer.py"
console.run(lora_trainer.main)
"""


def test_a_signal_during_an_evaluation_stops_it_and_the_resumed_run_makes_it_again(work):
    """The result, the evaluations and the best checkpoint are those of an undisturbed run."""
    options = {"training__max_steps": 15, "training__per_device_eval_batch_size": 16}
    whole = start(work, *CONFIRMED, "--run-id", "whole", **options)
    out, err = whole.communicate(timeout=240)
    assert whole.returncode == 0, err
    env = environment(work) | {"PYTHONPATH": str(ROOT / "scripts")}
    words = [*CONFIRMED, "--run-id", "cut", *tiny.options(**options)]
    cut = subprocess.run([sys.executable, "-c", STOP_IN_EVALUATION, *words], text=True,
                         capture_output=True, env=env, timeout=240)  # fmt: skip
    assert cut.returncode == 143, cut.stderr
    run = work / "adapters" / "runs" / "cut"
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "stopped" and status["step"] in (10, 15)
    assert (run / "checkpoints" / f"checkpoint-{status['step']}" / "evaluation-pending").exists()
    resumed = start(work, *CONFIRMED, "--resume", "cut", **options)
    out, err = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, err
    assert evaluations(work, "cut") == evaluations(work, "whole")
    assert adapter(work, "cut") == adapter(work, "whole")
