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

from base_model import chat_template, likeness, shrink, tokenizer_checks
from base_model.likeness import Likeness
from kit import console, publish

VOCABULARY = 4096
LENGTH = 192  # tokens of a row at most
Conversation = tuple[list[dict[str, Any]], list[dict[str, Any]] | None]  # messages, tools
ANSWERED = 0.3  # share of the base's rows that keep an (other row's) answer


def build_tokenizer(texts: list[str], like: str | Likeness, tools: Iterable[str] = ()) -> Any:
    """A byte-level BPE tokenizer trained on `texts`, with the tokens and template of `like`.

    Each of `tools` (definitions as the template writes them) is one token: rows stay short.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    like = likeness.named(like) if isinstance(like, str) else like
    special = like.tokens
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
    fast.chat_template = like.template
    return fast


def build_config(like: str | Likeness, tokenizer) -> Any:
    """The architecture's configuration with small dimensions. ValueError where none can be made."""
    like = likeness.named(like) if isinstance(like, str) else like
    vocabulary = -(-len(tokenizer) // 64) * 64
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "pad_token_id")}
    ends = [tokenizer.eos_token_id, tokenizer_checks.template_end(tokenizer)]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    return shrink.config_like(
        like.values, vocabulary, ids | {"eos_token_id": ends[0] if len(ends) == 1 else ends}
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


def _untrained(like: Likeness, texts: list[str], tools: list[str]) -> tuple[Any, Any, Likeness]:
    """(tokenizer, random model, what it is like): Llama where the architecture cannot be small."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer(texts, like, tools)
    try:
        config = build_config(like, tokenizer)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        few = torch.arange(4)[None]
        model(input_ids=few, labels=few)  # some complain here first
        return tokenizer, model, like
    except Exception as error:  # any architecture's own complaint about its numbers
        if like.model_type == likeness.FALLBACK and not like.values.get("hidden_size"):
            raise
        why = console.first_line(error)
        plain = likeness.named(likeness.FALLBACK, f"no miniature of {like.model_type} ({why})")
        return _untrained(plain, texts, tools)


def _encode(tokenizer, conversations, length: int, seed: int) -> list[list[int]]:
    """Token ids of the conversations in random order; a long one gives one window of `length`.

    Problem where the chat template refuses all of them.
    """
    coded, refusal, dice = [], None, random.Random(seed)
    for messages, tools in conversations:
        try:
            text = chat_template.render(tokenizer, messages, tools)
        except Exception as error:  # the template's own: another order of roles, no tools
            refusal = error
            continue
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        start = dice.randint(0, max(0, len(ids) - length))
        coded.append(ids[start : start + length])
    if not coded:
        raise console.Problem(
            f"the chat template refuses every row ({refusal})",
            "python scripts/lora_trainer.py names the rows and the reason",
        )
    dice.shuffle(coded)
    return coded


def build(
    conversations: list[Conversation],
    like: str | Likeness,
    out: Path,
    steps: int,
    seed: int,
) -> dict:
    """Build the miniature at `out` (replaced whole) from (messages, tools) pairs; its facts."""
    import shutil

    import torch
    from transformers import set_seed

    set_seed(seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    texts, tools = [], collections.Counter()
    for messages, offered in conversations:
        texts += [str(m.get("content") or "") + str(m.get("tool_calls") or "") for m in messages]
        tools.update(json.dumps(tool, ensure_ascii=False) for tool in offered or ())
    like = likeness.named(like) if isinstance(like, str) else like
    common = [text for text, _ in tools.most_common(50)]
    tokenizer, model, like = _untrained(like, texts, common)
    coded = _encode(tokenizer, with_shuffled_answers(conversations, seed), LENGTH, seed)
    batches = [coded[i : i + 8] for i in range(0, len(coded), 8)]
    before, after = train_base(model, batches, steps, tokenizer.pad_token_id)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    facts = {
        "family": model.config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss_before": before,
        "loss_after": after,
    } | ({"note": like.note} if like.note else {})
    if out.exists():
        shutil.rmtree(out)
    with publish.folder(out) as stage:
        model.to(torch.bfloat16).save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        publish.json_file(stage / "miniature.json", facts)
    return facts
