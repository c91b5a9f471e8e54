#!/usr/bin/env python3
"""What eval.py's own work costs: scoring beside the bare libraries, batches beside single rows.

    .venv-remote/bin/python tests/bench/evaluation.py

Two ratios, each side by side in this run, in CPU seconds of the fastest call: 960 rows scored
with intervals, beside bare rouge-score and sacrebleu calls on the same texts; 64 prompts answered
by a miniature in batches of 16, beside one at a time. Prints one JSON object.

Exit codes: 0 good, 1 a side could not run.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from kit import console  # noqa: E402

TEXT = "the a red old stone river house door bird ship runs falls opens closes under over"


def side_by_side(rounds: int, **sides) -> dict[str, float]:
    """Seconds of the fastest call of each side; they take turns, so that a busy box hits both."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, work in sides.items():
            began = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - began)
    return best


def texts(count: int, seed: int) -> list[str]:
    """Sentences of 10 to 60 words."""
    dice = random.Random(seed)
    return [" ".join(dice.choices(TEXT.split(), k=dice.randint(10, 60))) for _ in range(count)]


def scoring(rows: int = 960) -> dict[str, float]:
    """Seconds for EM, F1, ROUGE-L, BLEU and 1,000 resamples; and of the bare two libraries."""
    from rouge_score import rouge_scorer
    from sacrebleu.metrics import BLEU

    from adapters import metrics
    from evaluation import intervals

    predictions, references = texts(rows, 1), texts(rows, 2)

    def ours() -> None:
        scores = metrics.score(predictions, [[text] for text in references])
        intervals.summarise([scores], intervals.Settings())

    def bare() -> None:
        scorer = rouge_scorer.RougeScorer(["rougeL"])
        for prediction, reference in zip(predictions, references, strict=True):
            scorer.score(reference, prediction)
        BLEU().corpus_score(predictions, [references])

    return side_by_side(5, ours=ours, bare=bare)


def batches(count: int = 64) -> dict[str, float]:
    """Seconds to answer `count` prompts with a miniature, in batches of 16 and one at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    from base_model import miniature
    from evaluation import generate

    torch.set_num_threads(1)
    tokenizer = miniature.build_tokenizer(texts(200, 3), "llama")
    config = miniature.build_config("llama", tokenizer)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [tokenizer(text)["input_ids"] for text in texts(count, 4)]

    def answer(size: int):
        return lambda: generate.answers(model, tokenizer, prompts, size, 32)

    return side_by_side(3, batched=answer(16), single=answer(1))


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--smallest", action="store_true", help="a few rows: does it run")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    smallest = args.smallest or bool(os.environ.get("BENCH_SMALLEST"))
    scored, answered = (scoring(8), batches(4)) if smallest else (scoring(), batches())
    print(
        json.dumps(
            {
                "scoring": scored | {"ratio": scored["ours"] / scored["bare"]},
                "generation": answered | {"speed-up": answered["single"] / answered["batched"]},
            }
        )
    )
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
