"""The trainer as users run it: plan, double opt-in, a real run, a kill, two processes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from support import tiny
from support.processes import wait_until
from support.trainer_process import CONFIRMED, TRAINER, launch, start

pytestmark = pytest.mark.remote_env


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def adapter_hash(run):
    return hashlib.sha256((run / "final" / "adapter_model.safetensors").read_bytes()).hexdigest()


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_resume_after_sigkill_is_bit_identical(work):
    whole = start(work, *CONFIRMED, "--run-id", "whole")
    killed = start(work, *CONFIRMED, "--run-id", "killed")
    state = work / "adapters" / "runs" / "killed" / "checkpoints" / "checkpoint-10"
    wait_until((state / "trainer_state.json").exists, killed)
    killed.kill()
    killed.communicate()
    code, out, err = finish(whole)
    assert code == 0, err
    runs = work / "adapters" / "runs"
    assert out.strip() == str(runs / "whole")
    assert json.loads((runs / "killed" / "status.json").read_text())["state"] == "running"
    code, _, err = finish(start(work, *CONFIRMED, "--resume", "killed"))
    assert code == 0, err
    assert json.loads((runs / "killed" / "run.json").read_text())["seed"] == 42
    assert json.loads((runs / "killed" / "status.json").read_text())["resumed_from"]
    assert adapter_hash(runs / "killed") == adapter_hash(runs / "whole")
    losses = [[(m["step"], m["loss"]) for m in metrics(runs / name) if "loss" in m]
              for name in ("whole", "killed")]  # fmt: skip
    assert losses[0] == losses[1] and len(losses[0]) == 4
    evaluations = [m["eval_loss"] for m in metrics(runs / "whole") if "eval_loss" in m]
    assert evaluations[-1] < evaluations[0]
    status = json.loads((runs / "whole" / "status.json").read_text())
    assert status["state"] == "completed" and status["step"] == status["max_steps"] == 20
    assert (runs / "whole" / "final" / "chat_template.jinja").exists()
    config = json.loads((runs / "whole" / "final" / "adapter_config.json").read_text())
    assert config["r"] == 16 and len(config["target_modules"]) == 7


def test_term_keeps_a_checkpoint_and_says_how_to_go_on(work):
    process = start(work, *CONFIRMED, "--run-id", "stopped", training__max_steps=2000)
    status = work / "adapters" / "runs" / "stopped" / "status.json"
    wait_until(lambda: status.exists() and json.loads(status.read_text())["step"] >= 5, process)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 143 and out == "" and "--resume goes on" in err
    after = json.loads(status.read_text())
    assert after["state"] == "stopped"
    kept = work / "adapters" / "runs" / "stopped" / "checkpoints" / f"checkpoint-{after['step']}"
    assert (kept / "trainer_state.json").exists()
    code, _, err = finish(
        start(work, *CONFIRMED, "--resume", "stopped", training__max_steps=2000, lora__r=8)
    )
    assert code == 2 and "lora.r was 16, is 8" in err


def test_two_processes_learn_what_one_learns(work):
    """torchrun on two CPU processes (gloo): same global batch, same loss; rank 0 alone writes."""
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
           "--master_addr", "127.0.0.1", "--master_port", "0", "--rdzv-backend", "c10d",
           "--rdzv-endpoint", "127.0.0.1:0", TRAINER, *CONFIRMED, "--run-id", "two"]  # fmt: skip
    plain = {"quantization__load_in_4bit": "false", "model__dtype": "float32"}
    plain |= {"lora__lora_dropout": 0.0, "training__learning_rate": 1e-3}
    options = tiny.options(training__per_device_train_batch_size=2, **plain)
    double = launch([*two, *options], work)
    single = start(work, *CONFIRMED, "--run-id", "one", **plain)
    for process in (double, single):
        code, _, err = finish(process)
        assert code == 0, err
    runs = work / "adapters" / "runs"
    facts = [json.loads((runs / name / "run.json").read_text()) for name in ("one", "two")]
    assert [f["world_size"] for f in facts] == [1, 2]
    one, two_ = ([m["loss"] for m in metrics(runs / n) if "loss" in m] for n in ("one", "two"))
    assert len(one) == len(two_) == 4
    assert two_ == pytest.approx(one, rel=0.01)
    assert sorted(p.name for p in (runs / "two").iterdir()) == sorted(
        p.name for p in (runs / "one").iterdir()
    )


def test_the_multi_gpu_configurations_reach_the_libraries(tmp_path, monkeypatch):
    """DDP and FSDP2: every key is one that SFTConfig takes, and FSDP is version 2."""
    from base_model import loading
    from config import loader
    from training import lora

    monkeypatch.setattr(loading, "device", lambda: "cpu")
    for name, sharded in (("training_config_ddp.yaml", False), ("training_config_fsdp.yaml", True)):
        settings = loader.load(name)
        args = lora.sft_config(settings, tmp_path)
        assert bool(args.fsdp) is sharded
        if sharded:
            assert args.fsdp_plugin_args["fsdp_version"] == 2
            assert args.fsdp_plugin_args["activation_checkpointing"] is True


def test_fsdp_without_gpus_is_refused(work):
    process = launch(
        [sys.executable, TRAINER, *CONFIRMED, "--config", "training_config_fsdp.yaml", "--set",
         "model.model_name_or_path=models/miniature"], work)  # fmt: skip
    code, _, err = finish(process)
    assert code == 2 and "fsdp shards over GPUs" in err and "Traceback" not in err


def test_mistral_and_mamba_train_with_their_own_layers(tmp_path):
    """QLoRA for Mistral, LoRA on in_proj and x_proj for Mamba: the adapter changes the loss."""
    short = {"training__max_steps": 6, "training__eval_steps": 3, "training__save_steps": 3}
    own = {
        "mistral": {},
        "mamba": {
            "lora__target_modules": "[in_proj, x_proj]",
            "quantization__load_in_4bit": "false",
        },
    }
    running = []
    for family, changes in own.items():
        work = tmp_path / family
        tiny.write_rows(work)
        tiny.build(work, family, steps=20)
        running.append((work, start(work, *CONFIRMED, "--run-id", "x", **short, **changes)))
    for work, process in running:
        code, _, err = finish(process)
        assert code == 0, err
        run = work / "adapters" / "runs" / "x"
        evaluations = [m["eval_loss"] for m in metrics(run) if "eval_loss" in m]
        assert evaluations[-1] < evaluations[0]
        config = json.loads((run / "final" / "adapter_config.json").read_text())
        assert ("x_proj" in config["target_modules"]) == (work.name == "mamba")


def test_a_reader_of_stderr_that_leaves_ends_no_training(work):
    """Packed rows too: the warm-up is a share of the steps that are taken; and tf32 off CUDA."""
    words = [sys.executable, TRAINER, *CONFIRMED, "--run-id", "unread", *tiny.options(
        training__packing="true", training__max_steps=-1, training__num_train_epochs=1,
        training__warmup_steps=0.3, training__logging_steps=1, training__tf32="true")]  # fmt: skip
    reader, end = os.pipe()
    os.close(reader)
    env = os.environ | {"TANDEM_WORKDIR": str(work), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=end, env=env, timeout=300)
    os.close(end)
    run = work / "adapters" / "runs" / "unread"
    assert done.returncode == 0 and done.stdout.decode().strip() == str(run)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "completed" and status["max_steps"] < 60
    rates = [m["learning_rate"] for m in metrics(run) if "learning_rate" in m]
    assert max(rates) == pytest.approx(1e-2) and rates.index(max(rates)) < len(rates) / 2


def test_a_full_disk_is_one_line_and_the_run_says_failed(work):
    words = [sys.executable, TRAINER, *CONFIRMED, "--run-id", "full", *tiny.options()]
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "limited", *words]
    code, _, err = finish(launch(limited, work))
    assert code == 1 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert "the disk is full" in last and "--resume goes on" in last
    status = json.loads((work / "adapters" / "runs" / "full" / "status.json").read_text())
    assert status["state"] == "failed" and "the disk is full" in status["error"]


def test_a_run_is_seen_from_before_its_base_is_loaded(work, tmp_path):
    """A base that cannot be loaded: the run that began says so."""
    broken = tmp_path / "broken"
    shutil.copytree(work / "models" / "miniature", broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_act": "nope"}))
    code, _, err = finish(
        start(work, *CONFIRMED, "--run-id", "broken", model__model_name_or_path=broken)
    )
    assert code == 1 and "could not be loaded" in err and "Traceback" not in err
    status = json.loads((work / "adapters" / "runs" / "broken" / "status.json").read_text())
    assert status["state"] == "failed" and "could not be loaded" in status["error"]


def test_a_stop_while_the_base_is_loaded_is_written_down(tmp_path):
    from training import failures, run_folder

    writer = run_folder.RunFolder(tmp_path)
    writer.begin()
    with pytest.raises(SystemExit), failures.recorded(writer, lambda error: None):
        raise SystemExit(143)
    assert run_folder.read_status(tmp_path)["state"] == "stopped"


def test_every_optimizer_of_the_schema_is_one_of_transformers():
    from typing import get_args

    from transformers.training_args import OptimizerNames

    from config.schemas.training import Optimizer

    assert set(get_args(Optimizer)) <= {o.value for o in OptimizerNames}
