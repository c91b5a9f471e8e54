"""Keeps a job's finished checkpoints while somebody watches it: the keeper, in the background."""

from __future__ import annotations

import threading
from typing import Any

from jobs import contract, keeper
from kit import console, paths


class KeepingInBackground:
    """Fetches what is finished now and then, until `end`. Trouble is one warning, and no more.

    The thread ends with the command; what it was fetching at that moment is fetched anew next time.
    """

    def __init__(self, host_name: str, job: contract.Job, settings: Any, bucket: str):
        self.host_name, self.job, self.settings, self.bucket = host_name, job, settings, bucket
        self._ended, self._kept, self._warned = threading.Event(), self._names(), False
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(self.settings.every_seconds):
            self._fetch()

    def _fetch(self) -> None:
        try:
            keeper.fetch_finished(self.host_name, self.job, self.settings.keep_last, self.bucket)
        except (console.Problem, OSError) as problem:  # a thread's traceback helps nobody
            if not self._warned:
                console.warn(f"checkpoints are not kept here: {problem}; it is tried again")
            self._warned = True
            return
        self._warned = False
        if names := [name for name in self._names() if name not in self._kept]:
            self._kept += names
            console.note(f"{self.job.name}: {', '.join(names)} kept on this machine")

    def _names(self) -> list[str]:
        return [p.name for p in keeper.checkpoints(paths.folder("runs") / self.job.run_id)]

    def end(self) -> None:
        """The job is over: wait for what is being fetched, then fetch the rest."""
        self._ended.set()
        self._thread.join()
        self._fetch()
