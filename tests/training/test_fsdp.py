"""FSDP with two gloo processes on the CPU: real shards, real values, a whole adapter.

accelerate takes FSDP for GPUs alone, and so does the trainer: both are told otherwise here.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from base_model import random_weights
from support import tiny
from support.checkout import ROOT
from support.trainer_process import CONFIRMED, environment

pytestmark = [pytest.mark.remote_env, pytest.mark.slow]

TRAINER = """
import os, sys
import accelerate.state as state
from base_model import loading
from training import processes

processes.refuse_other_world = lambda *_: None
start, load = state.PartialState.__init__, loading.load


def like_gpus(self, *arguments, **keywords):
    start(self, *arguments, **keywords)
    shared = state.PartialState._shared_state
    sharded = os.environ["SHARDED"] == "True"
    if sharded and shared.get("distributed_type") == state.DistributedType.MULTI_CPU:
        shared["distributed_type"] = state.DistributedType.MULTI_GPU


def noted(*arguments, **keywords):
    model = load(*arguments, **keywords)
    read = any(parameter.detach().any() for parameter in model.parameters())
    with open(os.environ["NOTES"] + "/read-" + os.environ["RANK"], "w") as note:
        note.write(str(bool(read)))
    return model


state.PartialState.__init__, loading.load = like_gpus, noted
import lora_trainer
from kit import console
sys.argv[0] = "lora_trainer.py"
console.run(lora_trainer.main)
"""
PLAIN = {
    "quantization__load_in_4bit": "false", "model__dtype": "float32", "training__max_steps": 6,
    "training__eval_steps": 3, "training__save_steps": 3, "training__logging_steps": 1,
    "training__per_device_train_batch_size": 2, "training__learning_rate": 1e-3,
    "lora__lora_dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with rows, a trained miniature, and a random one with tied embeddings."""
    folder = tmp_path_factory.mktemp("work")
    tiny.write_rows(folder)
    miniature = tiny.build(folder)
    source = folder / "source"
    shutil.copytree(miniature, source, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": True}
    (source / "config.json").write_text(json.dumps(config))
    random_weights.write(source, folder / "models" / "tied")
    (folder / "trainer.py").write_text(TRAINER)
    return folder


def train(work, config, *words, **changes):
    """Two processes of the trainer; their losses by step."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc_per_node", "2", str(work / "trainer.py")]  # fmt: skip
    env = environment(work) | {"PYTHONPATH": str(ROOT / "scripts"), "NOTES": str(work)}
    env["SHARDED"] = str("fsdp" in config)
    options = tiny.options(**(PLAIN | changes))
    command = [*launcher, *CONFIRMED, "--config", config, *options, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(work, words[-1])


def losses(work, run):
    lines = (work / "adapters" / "runs" / run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["step"], key): row[key] for row in rows for key in ("loss", "eval_loss")
            if key in row}  # fmt: skip


def test_shards_learn_what_whole_models_learn_and_the_adapter_is_saved_whole(work):
    """The base is read by the first process alone; checkpoints hold the whole adapter too."""
    from training import saving

    sharded = train(work, "training_config_fsdp.yaml", "--run-id", "sharded",
                    training__gradient_accumulation_steps=1)  # fmt: skip
    assert [(work / f"read-{rank}").read_text() for rank in (0, 1)] == ["True", "False"]
    run = work / "adapters" / "runs" / "sharded"
    saving.check_adapter(run / "final", 14)
    for step in (3, 6):
        saving.check_adapter(run / "checkpoints" / f"checkpoint-{step}", 14)
    whole = train(work, "training_config_ddp.yaml", "--run-id", "whole",
                  training__gradient_accumulation_steps=1)  # fmt: skip
    assert [(work / f"read-{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
    assert sharded == pytest.approx(whole, rel=0.01) and len(sharded) == 8


def test_a_base_with_tied_embeddings_goes_on_after_an_evaluation_and_after_a_stop(work):
    changes = {"model__model_name_or_path": "models/tied"}
    before = train(work, "training_config_fsdp.yaml", "--run-id", "tied", **changes)
    run = work / "adapters" / "runs" / "tied"
    status = json.loads((run / "status.json").read_text()) | {"state": "stopped"}
    (run / "status.json").write_text(json.dumps(status))
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "checkpoint-6")
    os.remove(run / ".lock") if (run / ".lock").exists() else None
    after = train(work, "training_config_fsdp.yaml", "--resume", "tied", **changes)
    assert after == pytest.approx(before, rel=1e-4)
