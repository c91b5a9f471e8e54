"""Builds a tiny model of a family, for rehearsals and tests: real architecture, two layers of 64.

The base is trained on the rows with few and shuffled answers, so that it knows the language and the
format and leaves the task to LoRA (on a random base LoRA hardly learns: its lm_head is frozen).
"""

from __future__ import annotations

import collections
import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from base_model import chat_template, description, family_templates
from kit import console, publish

FAMILIES = ("llama", "mistral", "mamba")
VOCABULARY = 4096
Conversation = tuple[list[dict[str, Any]], list[dict[str, Any]] | None]  # messages, tools
ANSWERED = 0.3  # share of the base's rows that keep an (other row's) answer


def family_of(like: str | None, settings) -> str:
    """The family to imitate: named, or that of the configured model by its config.json or name."""
    if like in FAMILIES:
        return like
    name = like or settings.model.model_name_or_path
    try:
        found = description.config(name).get("model_type", "")
    except console.Problem:
        found = name.lower()
    return next((family for family in FAMILIES if family in found), "llama")


def build_tokenizer(texts: list[str], family: str, tools: Iterable[str] = ()) -> Any:
    """A byte-level BPE tokenizer trained on `texts`, with the family's tokens and chat template.

    Each of `tools` (definitions as the template writes them) is one token: rows stay short.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = family_templates.SPECIAL_TOKENS[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special["all"]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special["bos"],
        eos_token=special["eos"],
        pad_token=special["pad"],
        additional_special_tokens=list(special["all"]),
    )
    fast.add_tokens(list(tools))
    fast.chat_template = family_templates.CHAT_TEMPLATES[family]
    return fast


def build_config(family: str, tokenizer) -> Any:
    """The family's config with small dimensions: multiples of 64, heads of 32."""
    import transformers

    vocabulary = -(-len(tokenizer) // 64) * 64
    ids = {
        "vocab_size": vocabulary,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "mamba":
        return transformers.MambaConfig(
            hidden_size=64, state_size=16, num_hidden_layers=2, expand=2, **ids
        )
    kind = {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig}[family]
    return kind(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        **ids,
    )


def with_shuffled_answers(conversations: list[Conversation], seed: int) -> list[Conversation]:
    """The conversations with most last answers removed and the others dealt out at random.

    What a base learns from that is the language and the format; the task is left to the adapter.
    """
    dice = random.Random(seed)
    answers = [messages[-1:] for messages, _ in conversations]
    dice.shuffle(answers)
    dealt = [answer if dice.random() < ANSWERED else [] for answer in answers]
    return [(m[:-1] + a, tools) for (m, tools), a in zip(conversations, dealt, strict=True)]


def train_base(model, batches: list[list[list[int]]], steps: int, pad: int) -> tuple[float, float]:
    """Train every parameter for `steps` batches; returns the first and the last loss."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    losses: list[float] = []
    model.train()
    with console.progress(steps, "base model", "step") as bar:
        for step in range(steps):
            rows = batches[step % len(batches)]
            width = max(map(len, rows))
            ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            loss = model(
                input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)
            ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            bar.update()
    return losses[0], losses[-1]


def build(
    conversations: list[Conversation],
    family: str,
    out: Path,
    steps: int,
    seed: int,
    length: int = 192,
) -> dict:
    """Build the miniature at `out` (replaced whole) from (messages, tools) pairs; its facts."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    texts, tools = [], collections.Counter()
    for messages, offered in conversations:
        texts += [str(m.get("content") or "") + str(m.get("tool_calls") or "") for m in messages]
        tools.update(json.dumps(tool, ensure_ascii=False) for tool in offered or ())
    tokenizer = build_tokenizer(texts, family, [t for t, _ in tools.most_common(50)])
    model = AutoModelForCausalLM.from_config(build_config(family, tokenizer))
    coded, dice = [], random.Random(seed)
    for messages, offered in with_shuffled_answers(conversations, seed):
        text = chat_template.render(tokenizer, messages, offered)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        start = dice.randint(0, max(0, len(ids) - length))  # a long row gives one window of it
        coded.append(ids[start : start + length])
    dice.shuffle(coded)
    batches = [coded[i : i + 8] for i in range(0, len(coded), 8)]
    before, after = train_base(model, batches, steps, tokenizer.pad_token_id)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    facts = {
        "family": family,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss_before": before,
        "loss_after": after,
    }
    if out.exists():
        shutil.rmtree(out)
    with publish.folder(out) as stage:
        model.to(torch.bfloat16).save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        publish.json_file(stage / "miniature.json", facts)
    return facts
