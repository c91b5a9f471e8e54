"""Answers and losses of a loaded model: batched, greedy, padded on the left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from adapters import metrics
from base_model import chat_template, tokenizer_checks
from base_model.gpu_errors import memory_is_full
from base_model.template_refusals import TemplateRefusals
from evaluation import example_rows
from kit import console
from training import encoding


def _rows_to_render(
    examples: Sequence[example_rows.Example], remedy: str = "correct or delete that row"
) -> Iterator[tuple[example_rows.Example, AbstractContextManager[None]]]:
    """(example, the block to render it in) of each; at the end a Problem counts refused rows."""
    refusals = TemplateRefusals()
    for example in examples:
        yield example, refusals.collected(example.where, lambda error: remedy)
    refusals.check(len(examples))


def prompts(tokenizer, examples: Sequence[example_rows.Example]) -> list[list[int]]:
    """Token ids of each prompt with the opening of the answer, by the chat template."""
    encoded = []
    for example, block in _rows_to_render(examples):
        with block:
            text = chat_template.render(tokenizer, example.prompt, example.tools, prompt=True)
            encoded.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    return encoded


def fill_references(tokenizer, examples: Sequence[example_rows.Example]) -> None:
    """Give tool-call rows their reference: the call as the template writes it, markers removed."""
    without = [example for example in examples if not example.references]
    for example, block in _rows_to_render(without):
        with block:
            before = chat_template.render(tokenizer, example.prompt, example.tools, prompt=True)
            turns = [*example.prompt, example.answer]
            after = chat_template.render(tokenizer, turns, example.tools)
            ids = tokenizer(after[len(before) :], add_special_tokens=False)["input_ids"]
            example.references = [tokenizer.decode(ids, skip_special_tokens=True).strip()]


def answers(
    model, tokenizer, encoded: list[list[int]], batch_size: int, max_new_tokens: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:  # fmt: skip
    """The greedy answer to each prompt, stripped, without special tokens."""
    from transformers import GenerationConfig

    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    ends.add(tokenizer_checks.template_end(tokenizer) if tokenizer.chat_template else None)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,  # training leaves it off in the model's own settings
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(ends - {None}) or None,
    )

    def batch(part: list[list[int]]) -> list[str]:
        ids, mask = _pad(part, tokenizer.pad_token_id, model.device, left=True)
        new = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        texts = tokenizer.batch_decode(new[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    return _in_batches(encoded, len, batch, batch_size, advance)


def losses(
    model, tokenizer, encoded: list[list[dict[str, list[int]]]], batch_size: int,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, list[float]]:  # fmt: skip
    """The loss columns of each row, a list of encoded samples: summed loss, supervised tokens."""

    def batch(part: list[dict[str, list[int]]]) -> list[tuple[float, int]]:
        import torch

        ids, mask = _pad([r["input_ids"] for r in part], tokenizer.pad_token_id, model.device)
        wanted, _ = _pad([r["labels"] for r in part], encoding.IGNORED, model.device)
        trained = (wanted[:, 1:] != encoding.IGNORED).nonzero()[:, 1]
        if not len(trained):
            return [(0.0, 0)] * len(part)
        first = int(trained.min())  # the vocabulary's logits only where a token is predicted
        keep = torch.arange(first, ids.shape[1] - 1, device=ids.device)
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep).logits
        sums = []
        for scores, target in zip(logits, wanted[:, first + 1 :], strict=True):
            loss = torch.nn.functional.cross_entropy(
                scores.float(), target, ignore_index=encoding.IGNORED, reduction="sum"
            )
            sums.append((float(loss), int((target != encoding.IGNORED).sum())))
        return sums

    samples = [sample for row in encoded for sample in row]
    measured = iter(_in_batches(samples, lambda s: len(s["input_ids"]), batch, batch_size, advance))
    rows_of_pairs = [[next(measured) for _ in row] for row in encoded]
    return {
        column: [float(sum(pair[i] for pair in row)) for row in rows_of_pairs]
        for i, column in enumerate(metrics.LOSS_COLUMNS)
    }


def encode_losses(
    tokenizer, examples: Sequence[example_rows.Example], max_length: int
) -> list[list[dict[str, list[int]]]]:
    """The samples of each row as training sees them: the same turns, loss tokens and cut."""
    encoded = []
    remedy = "correct or delete that row, or measure no loss: --no-loss"
    for example, block in _rows_to_render(examples, remedy):
        with block:
            samples = encoding.encode_turns(tokenizer, example.conversation, max_length)
            encoded.append([{k: ids[:max_length] for k, ids in s.items()} for s in samples])
    return encoded


def _pad(sequences: list[list[int]], filler: int, device, left: bool = False):
    """(values, mask), both [rows, longest], of lists of ids."""
    import torch

    longest = max(map(len, sequences))
    values = torch.full((len(sequences), longest), filler)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for i, sequence in enumerate(sequences):
        where = slice(longest - len(sequence), None) if left else slice(len(sequence))
        values[i, where] = torch.tensor(sequence)
        mask[i, where] = 1
    return values.to(device), mask.to(device)


def _in_batches(items: list, length, work, size: int, advance) -> list[Any]:
    """work() on batches of items of like length, longest first; results in the items' order.

    Out of memory halves the batch and continues; a Problem when one item alone does not fit.
    """
    import torch

    order = sorted(range(len(items)), key=lambda i: -length(items[i]))
    results: list[Any] = [None] * len(items)
    done = 0
    while done < len(order):
        chosen = order[done : done + size]
        try:
            with torch.inference_mode():
                outputs = work([items[i] for i in chosen])
        except (RuntimeError, MemoryError, OSError) as error:
            if not memory_is_full(error):
                raise
            torch.cuda.empty_cache()
            if size == 1:
                raise console.Problem(
                    f"out of memory with one row of {length(items[chosen[0]])} tokens",
                    "lower data.max_length or generation.max_new_tokens, or load_in_4bit: true",
                ) from None
            size = max(1, size // 2)
            console.warn(f"out of memory: going on with batches of {size}")
            continue
        for i, result in zip(chosen, outputs, strict=True):
            results[i] = result
        done += len(chosen)
        advance(len(chosen))
    return results
