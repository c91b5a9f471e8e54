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

import argparse
from pathlib import Path

from kit import console


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="only this machine: 127.0.0.1 or ::1")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="ask for the token in it"
                        " (mode 0600); or the variable TANDEM_SERVER_TOKEN")  # fmt: skip
    parser.add_argument("--server", metavar="URL", help="a model server to compare models on")
    args = parser.parse_args(argv)
    if args.server and not args.server.startswith(("http://", "https://")):
        raise console.Misuse(f"--server {args.server}", "write http://127.0.0.1:8000")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from serving import web

    if args.host not in web.LOOPBACK:
        raise console.Misuse(
            f"--host {args.host}: the panel starts and stops trainings, so it stays on this"
            " machine",
            "from elsewhere: ssh -L 8765:127.0.0.1:8765 THIS_MACHINE",
        )
    token = web.read_token(args.token_file)
    listening, _ = web.listen(args.host, args.port, token)
    from dashboard import panel_app

    app = panel_app.create_app(args.server, token, closing=lambda: server.should_exit)
    server = web.uvicorn_server(app, busy=panel_app.BUSY, drain=5, lifespan="off")
    address = f"http://{web.address_of(listening)}"
    console.result(address)
    console.note(f"The panel is at {address}; Ctrl-C ends it, and no training with it")
    if args.open:
        import webbrowser

        webbrowser.open(address)
    server.run(sockets=[listening])
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
