#!/usr/bin/env python3
"""Which models there are, where they lie, and which one should answer.

    python scripts/model_registry.py list
    python scripts/model_registry.py show transformer_lora
    python scripts/model_registry.py select          the name on stdout, the reason on stderr
    python scripts/model_registry.py select --set selection.prefer_rag_finetuned=false

configs/models.yaml names base models and the entries mamba_lora, transformer_lora,
rl_trained_lora, each with its checkpoint (name@version or a range). `select` takes the best
fine-tuned version whose gate passed, else the base model, and says why.

Exit codes: 0 good, 1 a card is damaged, 2 an unknown name or a broken configuration.
"""

from __future__ import annotations

import difflib
import json
from typing import Any

from config import loader
from config import options as config_options
from kit import console, paths


class ModelRegistry:
    """The entries and base models of a models.yaml, and the versions below the adapters folder."""

    def __init__(self, config: str = "models.yaml", overrides: list[str] | None = None):
        self.config = loader.load(config, overrides or [], kind="models")
        self.root = paths.folder("adapters")

    def entry(self, name: str) -> dict[str, Any]:
        """One entry or base model, with what this machine has of it. Misuse for an unknown name."""
        from adapters import selection

        if name in self.config.base_models:
            facts = self.config.base_models[name]
            folder = selection.base_folder(self.config, name)
            return {"name": name, "kind": "base", "repo": facts.repo, "revision": facts.revision,
                    "folder": str(folder) if folder else None}  # fmt: skip
        self.check(name)
        entry = self.config.entries[name]
        good, rejected = selection.candidates(self.root, entry)
        folder = selection.base_folder(self.config, entry.base_model)
        return {
            "name": name, "kind": "adapter", "description": entry.description,
            "checkpoint": entry.checkpoint, "base_model": entry.base_model,
            "base_folder": str(folder) if folder else None,
            "usable": [{"name": v.reference, "folder": str(v.folder)} for v in good],
            "rejected": rejected,
        }  # fmt: skip

    def check(self, name: str) -> None:
        """Misuse with the nearest name unless `name` is an entry."""
        if name not in self.config.entries:
            known = [*self.config.entries, *self.config.base_models]
            close = difflib.get_close_matches(name, known, 1, 0.4)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
            raise console.Misuse(f"models.yaml has no {name}", hint)

    def all(self) -> list[dict[str, Any]]:
        """Every entry, then every base model."""
        return [self.entry(name) for name in (*self.config.entries, *self.config.base_models)]

    def select(self, only: str | None = None) -> Any:
        """The adapters.selection.Choice: what should answer, and why."""
        from adapters import selection

        if only:
            self.check(only)
        return selection.select(self.root, self.config, only)


def lines_of(entry: dict[str, Any]) -> list[str]:
    """An entry in words."""
    if entry["kind"] == "base":
        return [f"{entry['name']:<26} base     {entry['folder'] or 'not on this machine'}"]
    usable = entry["usable"][0]["name"] if entry["usable"] else "nothing to use yet"
    first = f"{entry['name']:<26} adapter  {usable}  (wants {entry['checkpoint']})"
    return [first, *(f"{'':26}          {r['name']}: {r['why']}" for r in entry["rejected"])]


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("action", choices=("list", "show", "select"))
    parser.add_argument("name", nargs="?", help="show: an entry or base model; select: one entry")
    config_options.add_config(parser, "models.yaml")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    if args.action == "show" and not args.name:
        parser.error("show needs a name")
    registry = ModelRegistry(args.config, args.overrides)
    if args.action == "select":
        choice = registry.select(args.name)
        console.note(f"{choice.name}: {choice.why}")
        for row in choice.rejected:
            console.note(f"  not {row['name']}: {row['why']}")
        if choice.base_folder is None:
            console.warn(f"{choice.base_model} is not on this machine: docs/MODEL_DOWNLOAD.md")
        console.result(json.dumps(choice.as_json()) if args.json else choice.name)
        return console.GOOD
    rows = [registry.entry(args.name)] if args.name else registry.all()
    if args.json:
        console.result(json.dumps(rows[0] if args.action == "show" else {"models": rows}))
    else:
        console.result("\n".join(line for row in rows for line in lines_of(row)))
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
