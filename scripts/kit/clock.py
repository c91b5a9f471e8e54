"""The time in UTC, in the two forms that files and names of Tandem have."""

from __future__ import annotations

import datetime


def timestamp() -> str:
    """The time as files and logs have it: 2026-11-21T08:15:30Z."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def name_stamp() -> str:
    """The time as names of runs and reports have it, sorted by time: 20261121-081530."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%d-%H%M%S}"
