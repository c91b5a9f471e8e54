"""What the memory of a preference training depends on: copies of the base, pairs, answers."""

from __future__ import annotations

from types import SimpleNamespace

from base_model import readiness
from rlhf.algorithms import PreferenceTask
from training import model_shape
from training.memory import DPO, ONLINE, PPO, REWARD, Workload
from training.memory_advice import MemoryCase

KINDS = {"reward": REWARD, "dpo": DPO, "grpo": ONLINE, "rloo": ONLINE, "ppo": PPO}
LENGTH_KEYS = {"grpo": "max_completion_length", "rloo": "max_completion_length",
               "ppo": "response_length"}  # fmt: skip


def case_of(task: PreferenceTask) -> MemoryCase:
    """The MemoryCase of a task whose base model is named."""
    s = task.settings
    rows = s.training.per_device_train_batch_size
    if task.generates:
        answer = task.longest_answer
        work = Workload(KINDS[task.kind], rows, s.data.max_prompt_length + answer, answer,
                        rollouts=s.batch, scorer=task.reward_run is not None)  # fmt: skip
    else:  # the two answers of a pair pass the model together
        work = Workload(KINDS[task.kind], 2 * rows, task.section.max_length)
    parts = SimpleNamespace(
        model=s.model, lora=s.lora, quantization=s.quantization, training=s.training
    )
    key = f"{task.kind}.{LENGTH_KEYS.get(task.kind, 'max_length')}"
    return MemoryCase(model_shape.of_model(readiness.describe(s)), parts, work, key)
