#!/usr/bin/env python3
"""Verify a base model's folder: complete, whole, of one revision, fitting together.

    python scripts/verify_model.py                            the configured base model
    python scripts/verify_model.py Llama-3.1-8B-Instruct      by name: models/, then the HF cache
    python scripts/verify_model.py models/mine --hash         a folder; SHA-256 too (16 GB: minutes)
    python scripts/verify_model.py mistralai/Mistral-7B-Instruct-v0.3 --revision d79d1742 --json
    python scripts/verify_model.py --closed-think configs/plain.jinja     write a chat template

Looks at index, shards, sizes, safetensors headers, config.json, architecture, quantisation, custom
code, tokenizer, revision, and for Git-LFS pointers and half downloads. Downloads and executes
nothing. configs/models.yaml holds the known files of Llama 3.1 8B Instruct and Mistral 7B Instruct
v0.3; any other model is checked by its own index.

Exit codes: 0 good (warnings too), 1 something is missing or broken, 2 called wrongly.
"""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path

from base_model import (
    chat_template,
    folder_checks,
    hashes,
    locate,
    model_folder,
    rendered_rows,
)
from base_model.model_folder import ModelFolder
from kit import console, paths, publish
from kit.report import Check, report


def configured() -> tuple[str, str | None]:
    """(base model, revision) that configs/training_config.yaml names."""
    try:
        from config import loader

        model = loader.load("training_config.yaml").model
        return model.model_name_or_path, model.model_revision
    except ModuleNotFoundError as error:
        remedy = "name a model, or run .venv-local/bin/python scripts/verify_model.py"
        raise console.Misuse(
            f"without {error.name} the configuration is not readable", remedy
        ) from None


def named(name: str, revision: str | None) -> tuple[ModelFolder, list[Check]]:
    """The model that is meant, and a skip where the known files could not be read."""
    notes: list[Check] = []
    try:
        entries = locate.known()
    except ModuleNotFoundError as error:
        text = f"configs/models.yaml not read, {error.name} is not here: index and headers only"
        entries, notes = {}, [Check("known files", "skip", text)]
    model = model_folder.find(name, entries, revision)
    if model is None and Path(name).parent.name == "models":
        model = ModelFolder(paths.workdir() / name, Path(name).name)
    if model is None:
        nearest = difflib.get_close_matches(name.rpartition("/")[2], entries, 1, 0.5)
        hint = (
            f"did you mean {nearest[0]}?"
            if nearest
            else "name a folder, or one of configs/models.yaml"
        )
        raise console.Misuse(f"{name}: no such folder, and no known or cached model", hint)
    return model, notes


def hash_all(model: ModelFolder) -> list[Check]:
    """hashes.checks with a bar where tqdm is there."""
    expected = hashes.expected_hashes(model)
    total = sum((model.folder / name).stat().st_size for name in expected)
    with contextlib.ExitStack() as stack:
        try:
            bar = stack.enter_context(
                console.progress(total, "hashing", "B", unit_scale=True, unit_divisor=1024)
            )
        except ModuleNotFoundError:
            console.say(f"hashing {console.size(total)}")
            return hashes.checks(model)
        return hashes.checks(model, bar.update)


def write_closed_think(model: ModelFolder, out: Path) -> int:
    """The model's chat template for answers without reasoning; Misuse where it opens no <think>."""
    template = chat_template.of_folder(model.folder)
    closed = rendered_rows.closed_think(template) if isinstance(template, str) else None
    if closed is None:
        raise console.Misuse(
            f"{paths.show(model.folder)}: its chat template opens no <think> in the prompt",
            "train with it as it is",
        )
    if out.exists():
        raise console.Misuse(f"{out} exists", "name another file")
    with publish.file(out) as f:
        f.write(closed)
    print(f"{out}: set model.chat_template to it in configs/training_config.yaml")
    return console.GOOD


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("model", nargs="?", help="a name, org/name or folder (default: configured)")
    parser.add_argument("--hash", action="store_true", help="SHA-256 of every file as well")
    parser.add_argument("--revision", metavar="COMMIT", help="fail where it is another commit")
    parser.add_argument(
        "--closed-think", type=Path, metavar="FILE",
        help="write its chat template there, without the <think> that the prompt opens",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    name, revision = (args.model, None) if args.model else configured()
    revision = args.revision or revision
    model, notes = named(name, revision)
    if args.closed_think:
        return write_closed_think(model, args.closed_think)
    checks = notes + folder_checks.checks(model, revision)
    if all(check.status != "fail" for check in checks):
        checks += folder_checks.tokenizer_truth(model)
    if args.hash and model.folder.is_dir():
        checks += hash_all(model)
    if not args.json:
        print(f"{model.name}  {paths.show(model.folder)}")
    return report(checks, args.json, model=model.name, folder=str(model.folder))


if __name__ == "__main__":
    console.run(main)
