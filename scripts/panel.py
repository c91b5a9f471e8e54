#!/usr/bin/env python3
"""One page over this checkout's runs and versions: follow, stop, resume, compare, train.

    python scripts/panel.py                                  http://127.0.0.1:8765
    python scripts/panel.py --open                           and open it in the browser
    python scripts/panel.py --server http://127.0.0.1:8000   compare models on this server

The page and its API (/api/v1/training/…) listen on this machine alone. To see a host's panel on
the laptop: ssh -L 8765:127.0.0.1:8765 gpu1, then open the same address. A training that it starts
is a process of its own: closing the page or ending this command does not touch it. Where others
have accounts on the machine, let it ask for a token: --token-file. docs/PANEL.md says more.

Exit codes: 0 good, 1 the port is taken, 2 called wrongly, 130/143 interrupted.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from kit import console

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse(argv: list[str] | None):
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="only this machine: 127.0.0.1 or ::1")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="ask for the token in it"
                        " (mode 0600); or the variable TANDEM_SERVER_TOKEN")  # fmt: skip
    parser.add_argument("--server", metavar="URL", help="a model server to compare models on")
    return parser.parse_args(argv)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; Misuse for another address, Problem where the port is taken."""
    if host not in LOOPBACK:
        raise console.Misuse(
            f"--host {host}: the panel starts and stops trainings, so it stays on this machine",
            "from elsewhere: ssh -L 8765:127.0.0.1:8765 THIS_MACHINE",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OverflowError:
        raise console.Misuse(f"--port {port}", "a port is a number up to 65535") from None
    except OSError as error:
        text = f"{host}:{port} cannot be used ({error.strerror})"
        raise console.Problem(text, "end what listens there, or choose another --port") from None
    listening.listen(128)
    return listening


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.server and not args.server.startswith(("http://", "https://")):
        raise console.Misuse(f"--server {args.server}", "write http://127.0.0.1:8000")
    from model_server import read_token

    token = read_token(args.token_file)
    listening = listen(args.host, args.port)
    import uvicorn

    from dashboard import app

    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    application = app.create_app(args.server, token, closing=lambda: server.should_exit)
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            log_level="warning",
            timeout_graceful_shutdown=5,
            server_header=False,
            lifespan="off",
            ws="none",
        )  # fmt: skip
    )
    print(address, flush=True)
    console.note(f"The panel is at {address}; Ctrl-C ends it, and no training with it")
    if args.open:
        import webbrowser

        webbrowser.open(address)
    sys.stdout.flush()
    server.run(sockets=[listening])
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
