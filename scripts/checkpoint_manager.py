#!/usr/bin/env python3
"""Manage adapter versions: register a finished run as name@version; verify, pack, export, load it.

    python scripts/checkpoint_manager.py register RUN --name mapper-lora
    python scripts/checkpoint_manager.py list
    python scripts/checkpoint_manager.py show mapper-lora@latest
    python scripts/checkpoint_manager.py verify mapper-lora@v1.0.0
    python scripts/checkpoint_manager.py pack mapper-lora@v1.0.0 --output mapper-lora.zip
    python scripts/checkpoint_manager.py unpack mapper-lora.zip
    python scripts/checkpoint_manager.py canary mapper-lora
    python scripts/checkpoint_manager.py export mapper-lora --format ollama --output ~/mapper
    python scripts/checkpoint_manager.py load 'mapper-lora@^1.0' --base models/Llama-3.1-8B-Instruct

NAME@VERSION: a version (@v1.0.0), @latest, or a range (@^1.0, @~1.2, @'>=1.0,<2'); a name alone
means @latest. `COMMAND --help` says more; docs/ADAPTERS.md is the guide.

Exit codes: 0 good, 1 a check or the work failed, 2 called wrongly (an unknown version).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from adapters import commands
from kit import console, paths


class CheckpointManager:
    """The versions below `root` (default: the adapters folder), for your own Python programs.

    Example: model, tokenizer, card = CheckpointManager().load_checkpoint("mapper-lora@^1.0")
    Methods raise kit.console.Problem (Misuse for an unknown name or version).
    """

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(root) if root else paths.folder("adapters")

    def versions(self, name: str) -> list[Any]:
        """Every adapters.version_store.Version of `name`, lowest first, retired ones too."""
        from adapters import version_store

        return version_store.versions(self.root, name)

    def resolve(self, reference: str) -> Any:
        """The adapters.version_store.Version that 'name@v1.0.0', '@latest' or a range means."""
        from adapters import version_store

        return version_store.resolve(self.root, reference)

    def register(self, run: str | os.PathLike, name: str, **options: Any) -> Any:
        """Make a completed run the next version of `name`; returns the Version.

        options: bump, force, report, as adapters.register.register takes them.
        """
        from adapters import register

        return register.register(self.root, run, name, **options)

    def load_checkpoint(self, reference: str, base: str | os.PathLike | None = None,
                        device: str | None = None, dtype: str | None = None,
                        any_base: bool = False) -> tuple[Any, Any, dict[str, Any]]:  # fmt: skip
        """(model, tokenizer, metadata) of a version, ready to generate; metadata is its card."""
        from adapters import load

        return load.load(self.resolve(reference), base, device, dtype, any_base)


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    commands.add_all(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    args = parser.parse_args(argv)
    try:
        result, lines = args.run(paths.folder("adapters"), args)
    except console.Problem as problem:
        if args.json:
            failure = {"ok": False, "error": str(problem)} | commands.details(problem)
            console.result(json.dumps(failure))
        raise
    console.result(json.dumps(result) if args.json else "\n".join(lines))
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
