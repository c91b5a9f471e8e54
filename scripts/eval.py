#!/usr/bin/env python3
"""Measure a model on a dataset: exact match, F1, ROUGE-L, BLEU and loss, with 95 % intervals.

    python scripts/eval.py --model adapters/runs/ID --dataset data/processed/val_sft.jsonl
    python scripts/eval.py --model mapper-lora@v1.0.0 --dataset FILE --max-samples 200
    python scripts/eval.py --model models/Llama-3.1-8B-Instruct --dataset FILE
    python scripts/eval.py --model adapters/runs/ID --dataset FILE --rag pdf_docs --top-k 3
    python scripts/eval.py --predictions FILE        scores texts that exist; needs no model

An adapter is measured beside its base, which is loaded once where possible. Rows are
{"messages"}, {"prompt","completion"} or {"question","answers"}. Settings: configs/eval.yaml.
Reports: reports/eval_NAME_TIME.json and .html, and report.json, report.html in the run's folder.

Exit codes: 0 good, 1 the rows or the model cannot be used, 2 called or configured wrongly.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from config import loader
from config import options as config_options
from evaluation import targets
from kit import console, paths

FLAGS = {  # flag -> where eval.yaml has it
    "max_samples": "data.max_samples",
    "batch_size": "generation.batch_size",
    "max_new_tokens": "generation.max_new_tokens",
    "loss": "metrics.loss",
    "rag": "rag.collection",
    "top_k": "rag.top_k",
}


def parse(argv: list[str] | None):
    import argparse

    parser = console.ArgumentParser(__doc__)
    parser.add_argument(
        "--model", help="a run, an adapter or model folder, name@version, or a models.yaml name"
    )
    parser.add_argument("--dataset", type=Path, help="JSONL rows with the right answers")
    parser.add_argument("--predictions", type=Path, help="JSONL rows with prediction, references")
    parser.add_argument("--base", help="the base model's folder, where it lies elsewhere now")
    parser.add_argument("--max-samples", type=int, metavar="N", help="rows to use, from the top")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="lower it if you run out of memory"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument(
        "--loss", action=argparse.BooleanOptionalAction, help="measure the answers' loss too"
    )
    parser.add_argument("--rag", metavar="COLLECTION", help="put retrieved passages before prompts")
    parser.add_argument("--top-k", type=int, metavar="N", help="passages a prompt gets")
    parser.add_argument("--name", help="the report's name; default: the model's")
    parser.add_argument("--run", type=Path, help="a run folder that gets the report too")
    parser.add_argument("--out-dir", type=Path, help="where reports go; default reports/")
    parser.add_argument("--save-predictions", type=Path, metavar="FILE",
                        help="write the answers as rows that --predictions reads")  # fmt: skip
    config_options.add_config(parser, "eval.yaml")
    parser.add_argument("--json", action="store_true", help="the report as one object on stdout")
    return parser, parser.parse_args(argv)


def check_arguments(parser, args) -> None:
    """End with one line where arguments contradict each other or name nothing."""
    if bool(args.predictions) == bool(args.model):
        parser.error("give --model with --dataset, or --predictions")
    if args.model and not args.dataset:
        parser.error("--model needs --dataset FILE, say data/processed/val_sft.jsonl")
    if args.predictions and (args.dataset or args.rag or args.base):
        parser.error("--predictions is scored as it is: leave out --dataset, --rag and --base")
    for name in ("dataset", "predictions"):  # as the trainer does: also below the work folder
        file = getattr(args, name)
        if file and not file.exists() and (paths.workdir() / file).is_file():
            setattr(args, name, paths.workdir() / file)
    file = args.dataset or args.predictions
    if not file.is_file():
        raise console.Misuse(f"{file}: no such file", "make data writes data/processed/*.jsonl")
    if args.run:
        args.run = targets.run_folder(args.run)
        if not targets.is_run(args.run):
            no_run = "no run (it has status.json, config.yaml)"
            what = no_run if args.run.is_dir() else "no such run folder"
            raise console.Misuse(f"{args.run}: {what}", "adapters/runs/ holds the runs")


def main(argv: list[str] | None = None) -> int:
    parser, args = parse(argv)
    check_arguments(parser, args)
    try:
        return evaluate(args)
    except ModuleNotFoundError as error:  # the local environment has not all that scores need
        what = f"the package {error.name} is missing in {sys.executable}"
        remedy = "run it with .venv-remote/bin/python (make setup-remote)"
        raise console.Problem(what, remedy) from error


def evaluate(args) -> int:
    """Measure, write the reports, and print what was asked for."""
    flags = [f"{key}={json.dumps(getattr(args, name))}"
             for name, key in FLAGS.items() if getattr(args, name) is not None]  # fmt: skip
    settings = loader.load(args.config, [*args.overrides, *flags], kind="eval")
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):  # nothing is downloaded by itself
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from evaluation import measurement, score_report

    measured = measurement.predictions(args, settings) if args.predictions else measurement.model(
        args, settings)  # fmt: skip
    body, run = measured
    written = score_report.write(body, args.out_dir or paths.folder("reports"), run)
    if args.json:
        console.result(json.dumps(body))
    else:
        console.result(score_report.table(body))
        console.result("\n".join(paths.show(path) for path in written))
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
