"""The objective of each algorithm on the validation rows, before and after training.

reward: accuracy and margin of the pairs · dpo: margin and accuracy against the reference ·
grpo, rloo, ppo: mean reward of sampled answers.
"""

from __future__ import annotations

from typing import Any

from rlhf import algorithms, rewards
from rlhf.algorithms import PreferenceTask

NAMES = {"reward": "accuracy", "dpo": "margin", "grpo": "reward", "rloo": "reward", "ppo": "reward"}


def objective(task: PreferenceTask, trainer) -> dict[str, float]:
    """{"accuracy", "margin"} or {"reward"}; {} where there are no validation rows."""
    if "validation" not in task.coded:
        return {}
    if task.generates:
        return {"reward": mean_reward(task, algorithms.policy_of(trainer))}
    prefix = "eval_" if task.kind == "reward" else "eval_rewards/"
    step = trainer.state.global_step  # the trainer may have evaluated after its last step
    logged = (e for e in trainer.state.log_history if e["step"] == step > 0 and "eval_loss" in e)
    measured = next(logged, None) or trainer.evaluate()
    names = {"accuracy": "accuracy", "margin": "margin"} if task.kind == "reward" else {
        "accuracy": "accuracies", "margin": "margins"}  # fmt: skip
    return {name: measured[prefix + key] for name, key in names.items()}


def mean_reward(task: PreferenceTask, policy) -> float:
    """Mean reward of sampled answers to the first val_prompts prompts: what training maximises.

    Sampled at the training's temperature, with the same seed each time.
    """
    import torch

    coded = task.coded["validation"].rows[: task.settings.data.val_prompts]
    prompts = [row["input_ids"] for row in coded]
    with torch.random.fork_rng():
        torch.manual_seed(task.settings.training.seed)
        ids = answers(task, policy, prompts)
    values = rewards.total(
        algorithms.reward_functions(task, "validation"),
        task.settings.reward_weights,
        completions=task.tokenizer.batch_decode(ids, skip_special_tokens=True),
        completion_ids=ids,
        row=[row["row"] for row in coded],
    )
    return sum(values) / len(values)


def answers(task: PreferenceTask, model, prompts: list[list[int]]) -> list[list[int]]:
    """The ids of a sampled answer to each prompt, up to and with its end token."""
    import torch
    from transformers import GenerationConfig

    end, pad = task.tokenizer.eos_token_id, task.tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=task.longest_answer,
        do_sample=True,
        temperature=task.section.temperature,
        top_k=0,
        pad_token_id=pad,
        eos_token_id=end,
        use_cache=True,
    )
    size, was_training = task.settings.training.per_device_eval_batch_size, model.training
    model.eval()
    completions: list[list[int]] = []
    for first in range(0, len(prompts), size):
        inputs = _left_padded(prompts[first : first + size], pad, model.device)
        with torch.inference_mode():
            out = model.generate(**inputs, generation_config=config)
        for ids in out[:, inputs["input_ids"].shape[1] :].tolist():
            completions.append(ids[: ids.index(end) + 1] if end in ids else ids)
    model.train(was_training)
    return completions


def _left_padded(part: list[list[int]], pad: int, device) -> dict[str, Any]:
    import torch

    width = max(map(len, part))
    ids = [[pad] * (width - len(p)) + p for p in part]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in part]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
