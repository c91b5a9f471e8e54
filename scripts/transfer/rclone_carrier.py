"""Files to and from a bucket by rclone. An object appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

from transfer.bucket import BucketHost
from transfer.progress_line import ProgressLine
from transfer.rclone import RcloneFailed
from transfer.received_files import MORE, cut_to_size

SLACK = 1 << 16  # bytes: an object that grew is cut to its listed size afterwards
TOO_MUCH = 8  # exit code of rclone: --max-transfer was reached


class RcloneCarrier:
    """Whole files only: an interrupted one starts again, those before it stay."""

    resumes_inside_files = False
    cause = ""

    def __init__(self, host: BucketHost):
        self.host = host

    def send(self, names: list[str], source: Path, below: str, total: int) -> None:
        """Copy `names` from the folder `source` here into the folder `below` in the bucket."""
        words = ["copy", "--no-traverse", "--checksum", *self.host.names(names)]
        self._copy([*words, str(source.absolute()), self.host.at(below)], total)

    def fetch(self, sizes: dict[str, int], below: str, target: Path, growth: int) -> set[str]:
        """Copy the files {name: bytes} from the folder `below` in the bucket into `target`.

        A bucket that sends more bytes than were listed is cut off.
        """
        total = sum(sizes.values())
        most = ["--max-transfer", f"{total + growth + SLACK}B", "--cutoff-mode", "HARD"]
        words = ["copy", "--no-traverse", "--checksum", *most, *self.host.names(sizes)]
        try:
            self._copy([*words, self.host.at(below), str(target.absolute())], total)
        except RcloneFailed as failed:
            if failed.exit_code != TOO_MUCH:
                raise
            self.cause = f" ({MORE})"
        return cut_to_size(target, sizes)

    def _copy(self, words: list[str], total: int) -> None:
        with ProgressLine(total) as line:
            self.host.ask(words, progress=line.show)
