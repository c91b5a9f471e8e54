#!/usr/bin/env python3
"""Serve adapters and their base through an OpenAI-compatible API.

    python scripts/model_server.py --checkpoint mapper-lora@v1.0.0
    python scripts/model_server.py --checkpoint mapper-lora --checkpoint other-lora@^1.0
    python scripts/model_server.py --base models/Llama-3.1-8B-Instruct
    curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "mapper-lora@v1.0.0", "messages": [{"role": "user", "content": "Hi"}]}'

All adapters share one base, which is loaded once; `model` in a request chooses. Without
--checkpoint and --base: the latest version, where there is only one adapter. Listens on loopback;
any other --host needs a token. Prints its URL when it is ready. docs/SERVING.md says more.

Exit codes: 0 stopped after everything was answered, 1 it could not start, or requests were cut off,
2 called wrongly (for example an unknown version).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from adapters import commands
from kit import console


class ModelServer:
    """The server for your own Python programs: ModelServer(checkpoint_path="mapper-lora").start().

    checkpoint_path: NAME@VERSION, or the folder of a version (adapters/mapper-lora/v1.0.0).
    options: those of the command, for example port=8000, base="models/Llama-3.1-8B-Instruct".
    """

    def __init__(self, checkpoint_path: str | os.PathLike, **options: Any):
        self.arguments = ["--checkpoint", os.fspath(checkpoint_path)]
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            self.arguments += [flag] if value is True else [flag, str(value)]

    def start(self) -> int:
        """Load, and answer until Ctrl-C; the exit code. SIGTERM ends the whole program."""
        return main(self.arguments)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = console.ArgumentParser(__doc__)
    add, whole = parser.add_argument, int
    add("--checkpoint", action="append", default=[], metavar="NAME@VERSION",
        help="or a version's folder; may be repeated")  # fmt: skip
    commands.add_base_options(parser)
    add("--load-in-4bit", action=argparse.BooleanOptionalAction, help="the base in 4 bits: a third"
        " of the memory; default: as the first version was trained")  # fmt: skip
    add("--engine", choices=("own", "vllm"), default="own",
        help="vllm: on a host with an NVIDIA GPU (make setup-serve)")  # fmt: skip
    add("--host", default="127.0.0.1", help="the address to listen on")
    add("--port", type=whole, default=8000, help="0: any free one")
    add("--token-file", type=Path, metavar="FILE", help="mode 0600; or the"
        " variable TANDEM_SERVER_TOKEN")  # fmt: skip
    add("--rows", type=whole, default=32, metavar="N", help="answers generated at once; lower it"
        " if memory runs out")  # fmt: skip
    add("--queue", type=whole, default=128, metavar="N", help="answers that may wait; more get 429")
    add("--timeout", type=float, default=300, metavar="S", help="seconds a request may take")
    add("--max-length", type=whole, metavar="N", help="tokens of prompt and answer together")
    add("--max-body", type=whole, default=1 << 20, metavar="BYTES", help="of a request")
    add("--drain", type=whole, default=30, metavar="S", help="seconds to finish in after SIGTERM")
    add("--json", action="store_true", help="the line at the start as one JSON object")
    args = parser.parse_args(argv)
    for name in ("rows", "queue", "timeout", "max_body", "max_length", "drain"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if not 0 <= args.port <= 65535:
        parser.error(f"--port {args.port}: a port is a number up to 65535")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from serving import model_catalog, web

    token = web.read_token(args.token_file)
    versions = model_catalog.choose(args.checkpoint, args.base)
    options = model_catalog.BaseOptions(args.device, args.dtype, args.load_in_4bit, args.any_base)
    catalog = model_catalog.check(versions, args.base, options)
    if args.engine == "vllm":
        from serving import vllm_front

        vllm_front.words(catalog, 0, args.rows, args.max_length)  # refuses before it listens
    sock, loopback = web.listen(args.host, args.port, token)
    from serving import server_app, service

    def announce(facts: dict[str, Any]) -> None:
        line = f"{facts['url']}  {', '.join(facts['models'])}"
        console.result(json.dumps(facts) if args.json else line)

    limits = service.ServiceLimits(
        args.rows, args.queue, args.timeout, args.max_body, args.max_length
    )
    hosts = (*web.LOOPBACK, args.host) if loopback else None
    asked = args.checkpoint or [version.name for version in versions]
    bounds = server_app.ServerOptions(hosts, token, limits, args.drain, args.engine, tuple(asked))
    return server_app.run(catalog, sock, bounds, announce)


if __name__ == "__main__":
    console.run(main)
