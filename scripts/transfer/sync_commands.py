"""What sync_to_remote.sh and sync_from_remote.sh run: arguments, then the login, then the rest.

ssh logs in while Python imports what plans a sync and looks at the files here.
"""

from __future__ import annotations

import argparse

from transfer import place


def up(argv: list[str] | None = None) -> int:
    """Send the kit and the prepared data."""
    parser = place.options("Send the kit and the prepared data to the host.")
    parser.add_argument("--kit-only", action="store_true")
    parser.add_argument("--delete", type=_positive, metavar="N")
    args = parser.parse_args(argv)
    with place.open_place(args.host, args.bucket, args.accept_new_host_key, args.verify) as host:
        host.log_in()
        from transfer.push import Push

        return Push(host, args).run()


def down(argv: list[str] | None = None) -> int:
    """Fetch adapters, runs and reports."""
    parser = place.options("Fetch adapters, runs and reports from the host.")
    parser.add_argument("--with-checkpoints", action="store_true")
    args = parser.parse_args(argv)
    with place.open_place(args.host, args.bucket, args.accept_new_host_key, args.verify) as host:
        host.log_in()
        from transfer import pull

        return pull.sync(host, args)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give the most files it may move, 1 or more")
    return int(text)
