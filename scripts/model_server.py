#!/usr/bin/env python3
"""Serve adapters and their base through an OpenAI-compatible API.

    python scripts/model_server.py --checkpoint mapper-lora@v1.0.0
    python scripts/model_server.py --checkpoint mapper-lora --checkpoint other-lora@^1.0
    python scripts/model_server.py --base models/Llama-3.1-8B-Instruct
    curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "mapper-lora@v1.0.0", "messages": [{"role": "user", "content": "Hi"}]}'

All adapters stand on one base, which is loaded once; `model` in a request chooses. Without
--checkpoint and --base: the latest version, where there is only one adapter. Listens on loopback;
any other --host needs a token. Prints its URL when it is ready. docs/SERVING.md says more.

Exit codes: 0 stopped after everything was answered, 1 it could not start, or requests were cut off,
2 called wrongly (an unknown version, say).
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import socket
from pathlib import Path

from kit import console, paths

TOKEN = "TANDEM_SERVER_TOKEN"
SHORTEST = 16  # characters of a token


def read_token(file: Path | None) -> str | None:
    """The token: from a file that only its owner can read, or from the variable."""
    if file is None:
        token, place = os.environ.get(TOKEN), TOKEN
    else:
        if file.stat().st_mode & 0o077:
            raise console.Misuse(f"others may read {file}", f"chmod 600 {file}")
        token, place = file.read_text(encoding="utf-8").strip(), str(file)
    if token is not None and (len(token) < SHORTEST or not token.isascii() or " " in token):
        fix = f"(umask 077; openssl rand -hex 32 > .credentials/server_token), {SHORTEST} or more"
        raise console.Misuse(f"{place}: no token of {SHORTEST} ASCII characters", fix)
    return token


def listen(host: str, port: int, token: str | None) -> tuple[socket.socket, bool]:
    """(listening socket, whether it is on loopback). Misuse without a token on other addresses."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise console.Misuse(f"--host {host}: no such address", "try 127.0.0.1") from None
    loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    if not loopback and not token:
        raise console.Misuse(
            f"{host} can be reached by others, and no token is set",
            f"give --token-file FILE or {TOKEN}, or keep 127.0.0.1 and use ssh -L {port}:",
        )
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        reason = error.strerror.lower() if error.strerror else str(error)
        raise console.Problem(f"{host}:{port}: {reason}", "choose another --port") from None
    return sock, loopback


def choose(references: list[str], base: str | None) -> list:
    """The versions to serve."""
    from adapters import version_store

    root = paths.folder("adapters")
    if not references and not base:
        names = version_store.all_names(root)
        if len(names) != 1:
            there = f"there are: {', '.join(names)}" if names else "register a run first"
            raise console.Misuse("which adapter? give --checkpoint NAME@VERSION", there)
        references = names
    versions = [version_store.resolve(root, reference) for reference in references]
    return list({version.reference: version for version in versions}.values())


def serve(catalog, args, token: str | None) -> int:
    """Load and answer until a signal comes; the exit code."""
    sock, loopback = listen(args.host, args.port, token)
    import uvicorn

    from serving import app, service

    url = f"http://{_shown(sock)}/v1"

    def changed(model: service.Service) -> None:
        if model.state == "failed":
            server.should_exit = True
        elif model.state == "ready":
            ids = [served.id for served in catalog.served]
            told = {"url": url, "models": ids, "pid": os.getpid()}
            print(json.dumps(told) if args.json else f"{url}  {', '.join(ids)}", flush=True)

    limits = service.Limits(args.rows, args.queue, args.timeout, args.max_body, args.max_length)
    model = service.Service(catalog, limits, changed)
    guard = app.Guard((*app.LOOPBACK, args.host) if loopback else None, token, args.max_body)

    class Server(uvicorn.Server):
        def handle_exit(self, sig, frame) -> None:
            model.drain(args.drain)
            super().handle_exit(sig, frame)

    server = Server(
        uvicorn.Config(
            app.create_app(model, guard), log_level="error", access_log=False,
            server_header=False, ws="none", timeout_graceful_shutdown=args.drain + 5,
            limit_concurrency=args.rows + args.queue + 512,
        )
    )  # fmt: skip
    bits = [name[8:] for name in ("load_in_4bit", "load_in_8bit") if catalog.quantization[name]]
    shown = f"{paths.show(catalog.folder)} in {bits[0]}" if bits else paths.show(catalog.folder)
    console.say(f"loading {shown}; {url} will answer")
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # uvicorn passes the signal on
        server.run(sockets=[sock])
    if model.problem:
        raise service.describe(model.problem)
    if model.cut:
        raise console.Problem(
            f"{model.cut} requests were cut off after {args.drain} s", "--drain N"
        )
    return console.GOOD


def _shown(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    add, whole = parser.add_argument, int
    add("--checkpoint", action="append", default=[], metavar="NAME@VERSION", help="may be repeated")
    add("--base", metavar="PATH", help="where the base model lies here")
    add("--any-base", action="store_true", help="only warn if it is another base")
    add("--device", choices=("cuda", "mps", "cpu"), help="default: the best here")
    add("--dtype", choices=("bfloat16", "float16", "float32"), help="default: that of the files")
    add("--load-in-4bit", action=argparse.BooleanOptionalAction, help="the base in 4 bits: a third"
        " of the memory; default: as the first version was trained")  # fmt: skip
    add("--host", default="127.0.0.1", help="the address to listen on")
    add("--port", type=whole, default=8000, help="0: any free one")
    add("--token-file", type=Path, metavar="FILE", help=f"mode 0600; or the variable {TOKEN}")
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
    token = read_token(args.token_file)
    versions = choose(args.checkpoint, args.base)
    from serving import models

    options = models.Options(args.device, args.dtype, args.load_in_4bit, args.any_base)
    return serve(models.check(versions, args.base, options), args, token)


if __name__ == "__main__":
    console.run(main)
