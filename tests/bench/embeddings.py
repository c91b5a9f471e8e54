#!/usr/bin/env python3
"""Merge against cat and against load-concatenate-dump; fetch against paramiko: one run.

    .venv-local/bin/python tests/bench/embeddings.py [merge] [fetch] [--rounds 3] [--json]
    .venv-local/bin/python tests/bench/embeddings.py merge --rows 2500000     16 GB of disk

merge: 250,010 x 768 float32 in 16 shards with 250,000 articles, every check on, warm cache. The
same bytes through `cat`, and through what one writes first: load all, concatenate, check, dump.
Each process is a new one; medians of the rounds. Anonymous memory is sampled from /proc.
fetch: 16 files from an sshd on loopback, then through a relay that adds 40 ms to each round trip.

Goals: merge <= 1.5 x cat, both flushed; >= 3 x faster than load-concatenate-dump; <= 64 MB beside
the list of articles; fetch >= 2 x paramiko get() on loopback, >= 4 x at 40 ms. --smallest: a few
rows, one round, to see that it runs.
Exit codes: 0 measured, 1 it could not be measured, 2 called wrongly.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent / "tests")]

from kit import console
from support.process_memory import MemoryWatch
from support.relay import relay_process

COMMAND = [sys.executable, str(SCRIPTS / "sync_and_merge_embeddings.py")]
SSHD = SCRIPTS.parent / "tests" / "sshd.sh"
SHARDS, DIM, QUESTIONS = 16, 768, 10

NAIVE = """
import glob, pickle, sys, time
import numpy as np
folder, wikipedia, output, items = sys.argv[1:4] + [int(sys.argv[4])]
shards = []
for path in glob.glob(f"{folder}/cluster*_gpu*.pkl"):
    with open(path, "rb") as f:
        shards.append(pickle.load(f))
shards.sort(key=lambda shard: shard["start_index"])
embeddings = np.concatenate([shard["embeddings"] for shard in shards])[:items]
norms = np.linalg.norm(embeddings, axis=1)
quality = {"mean_norm": norms.mean(), "std_norm": norms.std(), "min_norm": norms.min(),
           "max_norm": norms.max(), "has_nan": np.isnan(embeddings).any(),
           "has_inf": np.isinf(embeddings).any()}
with open(wikipedia, "rb") as f:
    articles = [{k: a[k] for k in ("title", "id", "url")} for a in pickle.load(f)]
with open(output, "wb") as f:
    pickle.dump({"embeddings": embeddings, "articles": articles, "quality_metrics": quality}, f, 4)
"""


def make_shards(folder: Path, rows: int, dtype: str) -> None:
    """SHARDS checkpoint files of unit vectors."""
    import pickle

    import numpy as np

    cuts = [round(i * (rows + QUESTIONS) / SHARDS) for i in range(SHARDS + 1)]
    base = np.random.default_rng(0).standard_normal((20_000, DIM), dtype=np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    for number, (begin, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
        part = np.resize(base, (end - begin, DIM)).astype(dtype)
        value = {"embeddings": part, "start_index": begin, "end_index": end, "model": "bench"}
        with open(folder / f"cluster1_gpu{number}.pkl", "wb") as f:
            pickle.dump(value, f, protocol=4)


def make_articles(path: Path, count: int) -> None:
    """Articles with 1 KB of text each."""
    import pickle

    text = "Tandem takes a fine-tune from raw text to a verified adapter. " * 20
    rows = [
        {"id": str(3 * i), "url": f"https://en.wikipedia.org/wiki/Article_{i}",
         "title": f"Article {i}", "text": text[i % 200 :]}
        for i in range(count)
    ]  # fmt: skip
    with open(path, "wb") as f:
        pickle.dump(rows, f, protocol=4)


def timed(words: list[str], out: Path, watch: type[MemoryWatch] | None = None) -> tuple[float, Any]:
    """Seconds of a command that writes the new file `out`, and its stdout or what `watch` saw."""
    out.unlink(missing_ok=True)
    begin = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        watching = watch(process) if watch else None
        if watching:
            watching.start()
        out_text, err = process.communicate()
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise console.Problem(f"failed: {err.decode()[-300:]}", "see above")
    if watching:
        watching.join()
    return seconds, watching or out_text.decode()


def flush(path: Path) -> float:
    begin = time.perf_counter()
    with open(path, "rb") as f:
        os.fsync(f.fileno())
    return time.perf_counter() - begin


def bench_merge(place: Path, rows: int, rounds: int, dtype: str, naive: bool) -> dict[str, Any]:
    """Seconds and memory of the three ways, on the same files."""
    shards, articles, out = place / "shards", place / "wikipedia.pkl", place / "out.pkl"
    shards.mkdir(exist_ok=True)
    console.say(f"merge: {rows + QUESTIONS:,} x {DIM} {dtype} from {SHARDS} shards")
    make_shards(shards, rows, dtype)
    if not articles.exists():
        make_articles(articles, rows)
    names = " ".join(f"'{p}'" for p in sorted(shards.iterdir()))
    merge = [*COMMAND, "--merge-only", "--embeddings-dir", shards, "--articles", articles]
    merge = [str(w) for w in (*merge, "--output", out, "--items", rows, "--json")]
    plain = [str(w) for w in (sys.executable, "-c", NAIVE, shards, articles, out, rows)]
    cat, both = (["sh", "-c", f"cat {n} >'{out}'"] for n in (names, f"{names} '{articles}'"))
    seen: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seen.setdefault(name, []).append(value)

    os.system(f"cat {names} '{articles}' >/dev/null")  # warm
    for _ in range(rounds):
        seconds, _ = timed(cat, out)
        note("cat", seconds)
        note("cat and flush", seconds + flush(out))
        note("cat, articles too", timed(both, out)[0])
        seconds, answer = timed(merge, out)
        merged = json.loads(answer)["merged"]
        note("merge", merged["seconds"]["copy"])
        note("merge command and flush", seconds)
        note("merge command", seconds - merged["seconds"]["flush"])
        if naive:
            note("load, concatenate, dump", timed(plain, out)[0])
    result: dict[str, Any] = {name: statistics.median(v) for name, v in seen.items()}
    # Runs of their own: looking at a process's memory holds it up.
    result["memory"] = timed(merge, out, MemoryWatch)[1].together
    result["article list"] = list_size(articles, rows)
    if naive:
        result["naive memory"] = timed(plain, out, MemoryWatch)[1].own
    out.unlink()
    shutil.rmtree(shards)
    return result


def list_size(path: Path, items: int) -> int:
    """Bytes of the list of articles in memory."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from embeddings import articles as a\n"
    code += "f = a.load(sys.argv[2], int(sys.argv[3])); s = sys.getsizeof\n"
    code += "print(sum(s(c) + sum(map(s, c)) for c in f.columns()))"
    words = [sys.executable, "-c", code, str(SCRIPTS), str(path), str(items)]
    return int(subprocess.run(words, check=True, capture_output=True).stdout)


def print_merge(r: dict[str, Any]) -> None:
    def line(name: str, base: str) -> None:
        print(f"  {name:<28}{r[name]:8.2f} s   {r[name] / r[base]:5.2f} x {base}")

    for name in ("cat", "cat, articles too", "cat and flush"):
        print(f"  {name:<28}{r[name]:8.2f} s")
    line("merge", "cat")
    line("merge command", "cat")
    line("merge command", "cat, articles too")
    line("merge command and flush", "cat and flush")
    if "load, concatenate, dump" in r:
        line("load, concatenate, dump", "merge command")
        print(f"  {'':<28}{console.size(r['naive memory'])} of anonymous memory")
    extra = console.size(r["memory"] - r["article list"])
    print(f"  anonymous memory of both processes: {extra} beside the list of articles "
          f"({console.size(r['article list'])})")  # fmt: skip


def by_paramiko(place: Path, port: int, names: list[str]) -> float:
    """Seconds that paramiko takes for all files, one get() after the other."""
    import paramiko

    begin = time.perf_counter()
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        "127.0.0.1", port, os.environ.get("USER") or "root", allow_agent=False,
        key_filename=str(place / "sshd" / "id_ed25519"), look_for_keys=False,
    )  # fmt: skip
    into = place / "paramiko"
    into.mkdir()
    with client.open_sftp() as sftp:
        for name in names:
            sftp.get(f"{place}/sshd/home/mapper_embeddings/embeddings/{name}", str(into / name))
    client.close()
    seconds = time.perf_counter() - begin
    shutil.rmtree(into)
    return seconds


def by_us(place: Path, port: int) -> float:
    """Seconds of the whole command: start, listing twice, transfer, checks, flush."""
    config = (place / "sshd" / "ssh_config").read_text().splitlines()
    lines = [f"  Port {port}" if line.strip().startswith("Port ") else line for line in config]
    known = place / "sshd" / "known_hosts"
    key = known.read_text().split(" ", 1)[1].splitlines()[0]
    known.write_text(f"[127.0.0.1]:{port} {key}\n")
    (place / "config").write_text("\n".join(lines) + "\n")
    begin = time.perf_counter()
    words = [*COMMAND, "--sync-only", "--clusters", "bench", "--embeddings-dir", place / "here"]
    env = os.environ | {"TANDEM_SSH_CONFIG": str(place / "config")}
    done = subprocess.run([str(w) for w in words], env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise console.Problem(f"failed: {done.stdout[-300:]} {done.stderr[-300:]}", "see above")
    shutil.rmtree(place / "here")
    return seconds


def bench_fetch(place: Path, rounds: int, delay: float, rows: int) -> dict[str, float]:
    """MB/s of both on loopback, with `delay` seconds each way."""
    started = subprocess.run(
        ["bash", str(SSHD), "start", str(place / "sshd"), "--alias", "bench"],
        capture_output=True, text=True,
    )  # fmt: skip
    if started.returncode:
        raise console.Problem(
            f"no sshd: {started.stdout}{started.stderr}", "apt-get install openssh-server"
        )
    relay = None
    try:
        port = int(started.stdout.split("SSHD_PORT=")[1].split()[0])
        there = place / "sshd/home/mapper_embeddings/embeddings"
        there.mkdir(parents=True)
        make_shards(there, rows, "f4")
        names = sorted(p.name for p in there.iterdir())
        total = sum(p.stat().st_size for p in there.iterdir()) / 1e6
        if delay:
            relay, port = relay_process(port, delay)
        way = f"{2000 * delay:.0f} ms" if delay else "loopback"
        console.say(f"fetch: {total:.0f} MB in {SHARDS} files, {way}")
        pairs = [(by_us(place, port), by_paramiko(place, port, names)) for _ in range(rounds)]
    finally:
        if relay:
            relay.kill()
            relay.wait()
        subprocess.run(["bash", str(SSHD), "stop", str(place / "sshd")], check=True)
        shutil.rmtree(place / "sshd")
    return {
        "ours MB/s": statistics.median(total / ours for ours, _ in pairs),
        "paramiko MB/s": statistics.median(total / theirs for _, theirs in pairs),
        "ratio": statistics.median(theirs / ours for ours, theirs in pairs),
    }


def print_fetch(r: dict[str, float]) -> None:
    print(f"  fetch {r['ours MB/s']:6.0f} MB/s   paramiko get() {r['paramiko MB/s']:6.0f} MB/s   "
          f"{r['ratio']:.2f} x")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("parts", nargs="*", choices=("merge", "fetch", []), help="default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=250_000, help="of the merge (%(default)s)")
    parser.add_argument("--float64", action="store_true", help="merge float64 too")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--smallest", action="store_true", help="few rows, one round: does it run")
    args = parser.parse_args(argv)
    fetched = 250_000
    if args.smallest or os.environ.get("BENCH_SMALLEST"):
        args.rounds, args.rows, fetched = 1, 1600, 1600
    os.environ["OMP_NUM_THREADS"] = "1"
    parts = args.parts or ["merge", "fetch"]
    results: dict[str, Any] = {}
    place = Path(tempfile.mkdtemp(prefix="bench-embeddings."))

    def measure(name: str, show: Callable, run: Callable) -> None:
        results[name] = run()
        if not args.json:
            print(name)
            show(results[name])

    try:
        if "merge" in parts:
            naive = args.rows <= 500_000
            for dtype in ("f4", "f8") if args.float64 else ("f4",):
                run = partial(bench_merge, place, args.rows, args.rounds, dtype, naive)
                measure(f"merge {args.rows:,} x {DIM} {dtype}", print_merge, run)
        if "fetch" in parts:
            run = partial(bench_fetch, place, args.rounds)
            measure("fetch, loopback", print_fetch, partial(run, 0, fetched))
            measure("fetch, 40 ms", print_fetch, partial(run, 0.02, fetched // 2))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if args.json:
        print(json.dumps(results))
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
