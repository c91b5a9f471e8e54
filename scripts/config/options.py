"""--config and --set: as a command that reads a configuration has them, and for a call of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping


def add_config(parser: argparse.ArgumentParser, default: str) -> None:
    """Add both: args.config is a file or a name in configs/, args.overrides a list of "a.b=c"."""
    parser.add_argument("--config", default=default, help="a file, or a name in configs/")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides",
                        help="replace one value of the configuration; may be repeated")  # fmt: skip


def set_words(values: Iterable[str] | Mapping[str, object]) -> list[str]:
    """The words of a call that sets these "a.b=c" texts, or {"a.b": c}."""
    texts = [f"{k}={v}" for k, v in values.items()] if isinstance(values, Mapping) else values
    return [word for text in texts for word in ("--set", text)]
