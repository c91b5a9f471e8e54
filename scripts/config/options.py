"""--config and --set, as every command that reads a configuration has them."""

from __future__ import annotations

import argparse


def add_config(parser: argparse.ArgumentParser, default: str) -> None:
    """Add both: args.config is a file or a name in configs/, args.overrides a list of "a.b=c"."""
    parser.add_argument("--config", default=default, help="a file, or a name in configs/")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides",
                        help="replace one value of the configuration; may be repeated")  # fmt: skip
