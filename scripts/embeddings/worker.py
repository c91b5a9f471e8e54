"""The articles' half of a merge, in a process of its own, while the rows are copied.

    worker = Worker({"articles": ..., "items": ..., "target": ..., "offset": ...})
    worker.check()              # raises early if it has failed
    reply = worker.result()      # {"count", "total", "length", "digest"}

Reading 250,000 articles is pure Python and would hold up the copying if it shared the interpreter.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from embeddings import articles, shard_rows
from embeddings.pickles import record_scan, writer
from kit import console
from kit.signals import signals_deferred


class Worker:
    """A child process that reads the articles and writes them where the plan says.

    On Linux it is forked, so that it begins at once; elsewhere it is a fresh Python.
    """

    def __init__(self, plan: dict[str, Any]):
        how = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.answer, theirs = how.Pipe(duplex=False)
        plan = plan | {"parent": os.getpid()}
        self.process = how.Process(target=main, args=(theirs, plan), daemon=True)
        with signals_deferred():
            self.process.start()
        theirs.close()

    def check(self) -> None:
        """Raise now what `result` would, if the process has ended badly."""
        if self.process.exitcode:
            self.result()

    def result(self) -> dict[str, Any]:
        """Wait for the end; its reply, or its Problem."""
        try:
            reply = json.loads(self.answer.recv_bytes())
        except EOFError:
            self.process.join()
            raise console.Problem(
                f"the process that reads the articles ended with {self.process.exitcode}",
                "run it again; if it was killed, free memory",
            ) from None
        if "problem" in reply:
            raise console.Problem(reply["problem"], reply.get("remedy", ""), reply["code"])
        return reply

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.join()
        self.answer.close()


def main(answer: Any, plan: dict[str, Any]) -> None:
    """The child process. It ignores Ctrl-C, which its parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with, args=(plan["parent"],), daemon=True).start()
    reply: dict[str, Any] = {}
    try:
        reply = work(plan)
    except console.Problem as problem:
        reply = {"problem": problem.text, "remedy": problem.remedy, "code": problem.code}
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        reply = {"problem": f"{error.filename or plan['articles']}: {reason}", "code": 1}
    except (ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        reply = {
            "problem": f"{plan['articles']}: not readable ({reason})",
            "remedy": "write it again",
            "code": 1,
        }
    except ModuleNotFoundError as error:
        reply = {"problem": f"the package {error.name} is missing", "remedy": "make setup-local"}
        reply["code"] = 1
    answer.send_bytes(json.dumps(reply).encode())
    answer.close()
    if "problem" in reply:
        os._exit(1)


def end_with(parent: int) -> None:
    """End when the parent has been killed: what this process holds open keeps the output locked."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def work(plan: dict[str, Any]) -> dict[str, Any]:
    """Read, check and write the articles."""
    import gc

    gc.disable()  # a quarter of the time, and nothing here is cyclic
    loaded = articles.load(plan["articles"], plan["items"], plan["any_order"])
    reply = {"count": len(loaded.ids), "total": loaded.total}
    target = Path(plan["target"])
    if plan["offset"] is None:
        write_parquet(loaded, target)
        return reply
    return reply | write_pickle(loaded, target, plan["offset"], plan["digest"])


def write_pickle(loaded: articles.Articles, target: Path, offset: int, name: str) -> dict[str, Any]:
    """Write the articles' part of the pickle into the file at `offset`."""
    digest, begin = shard_rows.digest(name), offset
    with open(target, "r+b", buffering=0) as f:
        for batch in pickle_batches(loaded):
            digest.update(batch)
            shard_rows.write(f, batch, offset)
            offset += len(batch)
    return {"length": offset - begin, "digest": digest.hexdigest()}


def pickle_batches(loaded: articles.Articles):
    """The opcodes from the last row to the last article, 16 batches of articles at a time."""
    size = writer.BATCH
    yield writer.after_rows()
    for begin in range(0, len(loaded.ids), size):
        part = [column[begin : begin + size] for column in loaded.columns()]
        yield writer.article_batch(part[0], part[1], part[2], first=begin == 0)


def write_parquet(loaded: articles.Articles, target: Path) -> None:
    """Write the articles as a Parquet table: id, title, url."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.write_table(table(loaded), target)
    except pa.ArrowInvalid as error:
        raise console.Problem(
            f"the articles do not fit Parquet: {error}", "correct their text"
        ) from None
    with open(target, "rb") as f:
        os.fsync(f.fileno())


def table(loaded: articles.Articles):
    """A pyarrow table of the articles; text as string, ids as string or int64."""
    import pyarrow as pa

    def column(values: list) -> pa.Array:
        if values and isinstance(values[0], int):
            return pa.array(values, pa.int64())
        return pa.array(values, pa.binary()).cast(pa.string())

    return pa.table(
        {key: column(c) for key, c in zip(record_scan.KEYS, loaded.columns(), strict=True)}
    )
