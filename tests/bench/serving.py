#!/usr/bin/env python3
"""model_server.py beside `transformers serve` on the merged model: 50 clients at once, one run.

    .venv-remote/bin/python tests/bench/serving.py [--clients 50] [--rounds 3] [--json] [--smallest]

Both servers stand on the same miniature and adapter and take turns; every client sends its
questions one after the other, without streaming. Goal: no failed request, and tokens a second at
least 7 times those of `transformers serve` (median of the rounds). --against-batching compares with
`transformers serve --continuous-batching` instead: its first answer takes half a minute, and there
is no goal. --adapters measures another thing, the engine alone: rows of two adapters in one batch
against rows of one, and against PEFT's own way, in CPU seconds of one process.

Exit codes: 0 measured and the goal was met, 1 not met or a server did not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from kit import console
from serving.web import free_port  # noqa: E402
from support.processes import wait_until  # noqa: E402

LONGEST = 64  # tokens of an answer
GOAL = 7.0  # times the tokens a second of `transformers serve`


def _answers(url: str) -> bool:
    import httpx

    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False


@contextlib.contextmanager
def server(words: list[str], port: int, ready: str, work: Path) -> Iterator[str]:
    """Start a server, wait until it answers on `ready`, stop it at the end. Yields its URL."""

    url = f"http://127.0.0.1:{port}"
    log = work / f"{port}.log"
    env = os.environ | {"TANDEM_WORKDIR": str(work), "HF_HOME": str(work / "hf")}
    with log.open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, env=env)
    try:
        wait_until(lambda: process.poll() is not None or _answers(url + ready))
        if process.poll() is not None:
            last = (log.read_text().strip().splitlines() or ["no output"])[-1]
            raise console.Problem(f"{words[0]} did not start ({last})", f"look at {log}")
        yield url
    finally:
        process.terminate()
        process.wait()


async def load(url: str, model: str, clients: int, each: int) -> dict[str, float]:
    """Requests and tokens a second, seconds of a request, failures, under that many clients."""
    import httpx

    from support import tiny

    times: list[float] = []
    problems: list[str] = []
    tokens = 0

    async def client(http: httpx.AsyncClient, number: int) -> None:
        nonlocal tokens
        for i in range(each):
            city = tiny.CITIES[(number + i) % len(tiny.CITIES)]
            question = {"role": "user", "content": f"Weather in {city} on day {number}?"}
            body = {"model": model, "messages": [question], "max_tokens": LONGEST, "temperature": 0}
            began = time.perf_counter()
            try:
                answer = await http.post("/v1/chat/completions", json=body)
                answer.raise_for_status()
                tokens += answer.json()["usage"]["completion_tokens"]
            except (httpx.HTTPError, KeyError, ValueError) as error:
                problems.append(f"{type(error).__name__} {error}".splitlines()[0])
            times.append(time.perf_counter() - began)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        began = time.perf_counter()
        await asyncio.gather(*(client(http, i) for i in range(clients)))
        seconds = time.perf_counter() - began
    times.sort()
    if problems:
        console.warn(f"{len(problems)} requests failed, the first: {problems[0]}")
    return {
        "requests_per_s": len(times) / seconds,
        "tokens_per_s": tokens / seconds,
        "median_s": times[len(times) // 2],
        "p95_s": times[int(0.95 * len(times))],
        "failed": len(problems),
    }


def prepare(work: Path) -> Path:
    """Base, adapter and merged model below `work`; returns the merged folder."""
    from adapters.exports import merged
    from support import served_models

    version = served_models.build(work, ("weather-lora",), answers=12)["weather-lora"]
    os.environ["TANDEM_WORKDIR"] = str(work)
    merged.export(version, work / "merged")
    return work / "merged"


def measure(work: Path, args) -> dict[str, list[dict]]:
    """{"tandem": [...], "transformers": [...]}: the rounds of both, in turns."""
    merged = prepare(work)
    python = sys.executable
    ours, theirs = free_port(), free_port()
    serve = shutil.which("transformers", path=str(Path(python).parent)) or "transformers"
    rounds: dict[str, list[dict]] = {"tandem": [], "transformers": []}
    words = [python, str(ROOT / "scripts" / "model_server.py"), "--checkpoint", "weather-lora"]
    words += ["--port", str(ours), "--rows", str(args.clients)]
    other = [serve, "serve", str(merged), "--port", str(theirs)]
    if args.against_batching:  # left alone it takes nearly all memory, and the kernel kills it
        other += ["--continuous-batching", "--cb-max-memory-percent", "0.05"]
    with (
        server(words, ours, "/ready", work) as mine,
        server(other, theirs, "/health", work) as its,
    ):
        sides = {"tandem": (mine, "weather-lora"), "transformers": (its, str(merged))}
        for url, model in sides.values():
            asyncio.run(load(url, model, 4, 1))  # warm up
        for i in range(args.rounds):
            for name, (url, model) in sides.items():
                result = asyncio.run(load(url, model, args.clients, args.each))
                console.note(f"round {i + 1}, {name}: {result['tokens_per_s']:.0f} tokens/s")
                rounds[name].append(result)
    return rounds


def compare_adapters(rounds: int, as_json: bool, smallest: bool) -> int:
    """Print what mixed rows cost the engine; the exit code: there is no goal."""
    from support import adapter_rates

    rates = adapter_rates.measure(rounds, *((2, 4) if smallest else ()))
    one, *others = adapter_rates.KINDS
    ratios = {
        kind: statistics.median(
            mine / alone for mine, alone in zip(rates[kind], rates[one], strict=True)
        )
        for kind in others
    }
    ratio = ratios[others[0]]
    if as_json:
        print(json.dumps({"mixed_vs_one_adapter": ratio, "rates": rates}))
    else:
        for kind, values in rates.items():
            print(f"{kind:<26} {statistics.median(values):7.0f} tokens per second of CPU")
        hooks = ratios[others[1]]
        print(f"serving, two adapters mixed / one: {ratio:.2f} (PEFT's hooks: {hooks:.2f})")
    return console.GOOD


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--clients", type=int, default=50, help="requests at once")
    parser.add_argument("--each", type=int, default=2, help="requests of each client in a round")
    parser.add_argument("--rounds", type=int, default=3, help="of both servers, in turns")
    parser.add_argument("--against-batching", action="store_true", help="see above")
    parser.add_argument("--adapters", action="store_true", help="mixed rows, see above")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="2 clients, no goal: does it run")
    args = parser.parse_args(argv)
    smallest = args.smallest or bool(os.environ.get("BENCH_SMALLEST"))
    if smallest:
        args.clients, args.each, args.rounds = 2, 1, 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if args.adapters:
        return compare_adapters(args.rounds, args.json, smallest)
    with tempfile.TemporaryDirectory() as work:
        rounds = measure(Path(work), args)
    if not all(result["tokens_per_s"] for result in rounds["transformers"]):
        raise console.Problem("transformers serve answered nothing", "run it again")
    pairs = zip(rounds["tandem"], rounds["transformers"], strict=True)
    ratios = [mine["tokens_per_s"] / its["tokens_per_s"] for mine, its in pairs]
    failed = sum(result["failed"] for result in rounds["tandem"])
    ratio = statistics.median(ratios)
    if args.json:
        body = {"tokens_vs_transformers_serve": ratio, "failed": failed, "ratios": ratios}
        goal = {} if args.against_batching else {"goal": GOAL}
        print(json.dumps(body | goal | {"rounds": rounds}))
    else:
        for name, results in rounds.items():
            middle = {key: statistics.median(r[key] for r in results) for key in results[0]}
            print(
                f"{name:<13} {middle['tokens_per_s']:7.0f} tokens/s, "
                f"{middle['requests_per_s']:6.1f} requests/s, a request {middle['median_s']:.2f} s "
                f"(p95 {middle['p95_s']:.2f} s), {sum(r['failed'] for r in results)} failed"
            )
        goal = "no goal" if args.against_batching else f"goal >= {GOAL:g}"
        print(f"serving, model_server / transformers serve: {ratio:.1f} ({goal})")
    met = ratio >= GOAL or args.against_batching or smallest
    return console.GOOD if met and not failed else console.FAILED


if __name__ == "__main__":
    console.run(main)
