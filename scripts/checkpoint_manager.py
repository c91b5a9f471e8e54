#!/usr/bin/env python3
"""Adapters with a life: a finished run becomes name@version, immutable and checked.

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
means @latest. `COMMAND --help` says more; docs/ADAPTERS.md tells the whole life.

Exit codes: 0 good, 1 a check or the work failed, 2 called wrongly (an unknown version, say).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from adapters import commands
from kit import console, paths


class CheckpointManager:
    """The versions below `root` (default: the adapters folder of this checkout).

    Methods raise kit.console.Problem (Misuse for an unknown name or version) with one line.
    """

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(root) if root else paths.folder("adapters")

    def names(self) -> list[str]:
        """The names that have versions."""
        from adapters import store

        return store.all_names(self.root)

    def versions(self, name: str) -> list[Any]:
        """Every adapters.store.Version of `name`, lowest first, retired ones too."""
        from adapters import store

        return store.versions(self.root, name)

    def resolve(self, reference: str) -> Any:
        """The adapters.store.Version that 'name@v1.0.0', '@latest' or a range means."""
        from adapters import store

        return store.resolve(self.root, reference)

    def register(
        self,
        run: str | os.PathLike,
        name: str,
        bump: str | None = None,
        force: str | None = None,
        report: str | os.PathLike | None = None,
    ) -> Any:
        """Make a completed run the next version of `name`; returns the Version."""
        from adapters import register

        return register.register(self.root, run, name, bump=bump, force=force, report=report)

    def verify(self, reference: str, base: str | os.PathLike | None = None) -> dict[str, Any]:
        """Facts of a sound version; raises adapters.weights.Difference at the first difference."""
        from adapters import verify

        return verify.verify(self.resolve(reference), Path(base) if base else None)

    def pack(self, reference: str, output: str | os.PathLike) -> tuple[Any, str]:
        """(Version, SHA-256 of the zip): the version as one reproducible zip at `output`."""
        from adapters import pack

        version = self.resolve(reference)
        return version, pack.pack(version, output)

    def unpack(self, archive: str | os.PathLike) -> tuple[Any, bool]:
        """(Version, whether it is new) of a zip, verified before it is published."""
        from adapters import pack

        return pack.unpack(self.root, archive)

    def diff(self, reference: str, other: str) -> dict[str, Any]:
        """What differs from `reference` to `other`: card, files, weights."""
        from adapters import diff

        return diff.diff(self.resolve(reference), self.resolve(other))

    def retire(self, reference: str, reason: str, undo: bool = False) -> Any:
        """Mark the version as retired (or, with `undo`, not any more); returns the Version."""
        from adapters import names, retire

        version = self.resolve(reference)
        if names.split(reference)[1] != version.version:
            raise console.Misuse(
                f"{reference} means {version.reference} now", "name the version that you retire"
            )
        retire.restore(version) if undo else retire.retire(version, reason)
        return version

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
    manager = CheckpointManager()
    try:
        result, lines = args.run(manager, args)
    except console.Problem as problem:
        if args.json:
            print(json.dumps({"ok": False, "error": str(problem)} | commands.details(problem)))
        raise
    if args.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print("\n".join(lines))
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
