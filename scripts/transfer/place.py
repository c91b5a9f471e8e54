"""The other side of a sync: a host, or a bucket where the call or the variable BUCKET names one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kit import console
from transfer import address
from transfer.host import Host, open_host


def options(description: str) -> console.ArgumentParser:
    """A parser with the options that a sync takes in either direction."""
    dry_run = os.environ.get("DRY_RUN", "0") not in ("", "0")
    parser = console.ArgumentParser(description)
    parser.add_argument("host", nargs="?")
    parser.add_argument("--dry-run", action="store_true", default=dry_run)
    parser.add_argument("--verify", "--checksum", action="store_true")
    parser.add_argument("--accept-new-host-key", action="store_true")
    parser.add_argument("--bucket", metavar="REMOTE:PATH")
    return parser


@contextlib.contextmanager
def open_place(
    host: str | None, bucket: str | None, accept_new: bool = False, verify: bool = False
) -> Iterator[Host]:
    """The host or the bucket, until the block ends. verify: read every object of a bucket."""
    if not (name := address.chosen_bucket(bucket, host)):
        with open_host(host, accept_new) as opened:
            yield opened
        return
    from transfer.bucket import BucketHost  # needs time that a sync with a host does not have

    place = BucketHost(address.parse_bucket(name))
    place.verify = verify
    try:
        place.open()
        yield place
    finally:
        place.close()
