"""The serving step of `make prove-gpu`: two adapters on the large base, asked by many at once."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from kit import console, paths
from workflow.proof_steps import Sizes, has_gpu, kit

NAMES = ("proof-a", "proof-b")


def serve(sizes: Sizes) -> dict[str, Any]:
    """Tokens a second of model_server.py, for each number of clients, both adapters mixed."""
    for name in NAMES:
        if not (paths.folder("adapters") / name).is_dir():
            kit("checkpoint_manager.py", "register", "large-4bit", "--name", name)
    words = [word for name in NAMES for word in ("--checkpoint", name)]
    words += [] if has_gpu() else ["--device", "cpu"]
    command = [sys.executable, str(paths.ROOT / "scripts" / "model_server.py"), *words]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--port", "0", "--timeout", "100", "--json"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline()
            if not line.startswith("{"):
                raise console.Problem("the server did not start: its log is above")
            ready = json.loads(line)
            facts = {"ready_seconds": round(time.monotonic() - began, 1)}
            ids = ready["models"][:2]
            ask(ready["url"], ids, 2, 2)  # the first answers wait for kernels to be loaded
            for clients in sizes.clients:
                facts[f"clients_{clients}"] = ask(ready["url"], ids, clients, sizes.answer)
        finally:
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            server.kill()
    return facts


def ask(url: str, ids: list[str], clients: int, tokens: int) -> dict[str, Any]:
    """Ask `clients` times at once: tokens a second of all together, the slowest answer's seconds.

    Problem where an answer fails.
    """
    counts: list[int] = []
    waits: list[float] = []
    failures: list[str] = []

    def one(number: int) -> None:
        question = {"role": "user", "content": f"How cold was it on day {number}?"}
        body = {"model": ids[number % len(ids)], "max_tokens": tokens, "temperature": 0,
                "messages": [question]}  # fmt: skip
        request = urllib.request.Request(
            f"{url}/chat/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        began = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=110) as answer:
                counts.append(json.load(answer)["usage"]["completion_tokens"])
            waits.append(time.monotonic() - began)
        except (OSError, ValueError, KeyError) as error:
            failures.append(console.first_line(error))

    began = time.monotonic()
    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise console.Problem(f"{len(failures)} of {clients} answers failed: {failures[0][:200]}")
    seconds = time.monotonic() - began
    return {"tokens_per_second": round(sum(counts) / seconds, 1), "slowest": round(max(waits), 2)}
