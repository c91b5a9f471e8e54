#!/usr/bin/env python3
"""Kill the embeddings command at random moments, and see that nothing is lost or half-done.

    python tests/support/drill_embeddings.py                 100 kills
    python tests/support/drill_embeddings.py --kills 20 --seed 7

Each round writes new shards on a cluster (an sshd of its own on loopback; a stand-in folder where
none can run), starts a sync and merge, and kills it after a random time (SIGKILL, SIGTERM or
SIGINT). After each kill: every shard that is here is whole, and the output is the old one or the
new one, whole. Then the same command with --resume ends the work, and the output is the new one.
Needs numpy.

Exit codes: 0 nothing was lost, 1 something was (its folder is kept and named).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

import numpy as np  # noqa: E402

import write_manifest  # noqa: E402
from support.embeddings_samples import shards, wikipedia  # noqa: E402

DIM, COUNT = 256, 8
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


def words(folder: Path, items: int) -> list[str]:
    """The command that is killed."""
    script = str(ROOT / "scripts" / "sync_and_merge_embeddings.py")
    return [
        sys.executable, script, "--clusters", cluster(folder), "--embeddings-dir",
        str(folder / "here"), "--articles", str(folder / "wikipedia.pkl"), "--items", str(items),
        "--output", str(folder / "out" / "all.pkl"), "--resume",
    ]  # fmt: skip


def cluster(folder: Path) -> str:
    """What --clusters gets: the server's alias if one runs, else the folder."""
    return "tensor01" if (folder / "sshd" / "sshd.pid").exists() else str(folder / "cluster")


@contextlib.contextmanager
def server(folder: Path):
    """An sshd for the drill, if one can run here. Its home is the stand-in's folder."""
    sshd = ["bash", str(ROOT / "tests" / "sshd.sh")]
    there = str(folder / "sshd")
    if subprocess.run([*sshd, "available"], capture_output=True).returncode == 0:
        subprocess.run(
            [*sshd, "start", there, "--alias", "tensor01"], check=True, capture_output=True
        )
        (folder / "cluster").symlink_to(folder / "sshd" / "home")
        os.environ["TANDEM_SSH_CONFIG"] = str(folder / "sshd" / "ssh_config")
    try:
        yield
    finally:
        if os.environ.pop("TANDEM_SSH_CONFIG", None):
            subprocess.run([*sshd, "stop", there], check=True)


def new_shards(folder: Path, rows: int, seed: int) -> np.ndarray:
    """Shards of `rows` rows and 10 questions, their manifest, and the rows."""
    array = np.random.default_rng(seed).standard_normal((rows + 10, DIM), dtype=np.float32)
    there = folder / "cluster" / "mapper_embeddings" / "embeddings"
    shards(there, array, COUNT)
    write_manifest.write(str(there), "cluster*_gpu*.pkl")
    return array[:rows]


def start(command: list[str]) -> subprocess.Popen:
    # A shell's background jobs ignore SIGINT, and so would everything started here.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def check_whole(folder: Path, old: np.ndarray | None, new: np.ndarray) -> str:
    """'old', 'new' or 'none': what the output holds. Fails if it is anything else."""
    for path in (folder / "here").glob("cluster*_gpu*.pkl"):
        with open(path, "rb") as f:
            assert len(pickle.load(f)["embeddings"]), path
    output = folder / "out" / "all.pkl"
    if not output.exists():
        assert old is None, "the old output is gone"
        return "none"
    with open(output, "rb") as f:
        merged = pickle.load(f)
    assert len(merged["articles"]) == len(new)
    if old is not None and (merged["embeddings"] == old).all():
        return "old"
    assert (merged["embeddings"] == new).all(), "the output is neither the old nor the new one"
    return "new"


def one_round(folder: Path, dice: random.Random, rows: int, span: float, state: dict) -> str:
    """Kill one run, look, then let it end: what was there after the kill, and when it came."""
    new = new_shards(folder, rows, dice.randrange(1 << 30))
    process = start(words(folder, rows))
    moment, how = dice.uniform(0, span), "finished"
    try:
        process.communicate(timeout=moment)
        state["span"] = max(0.2, moment * 0.95)  # it was faster than thought
    except subprocess.TimeoutExpired:
        how = dice.choice(SIGNALS)
        process.send_signal(how)
        process.communicate()
        assert process.returncode in (-how, 128 + how, 0), process.returncode
        how = how.name
    outcome = check_whole(folder, state["old"], new)
    done = start(words(folder, rows))
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert check_whole(folder, None, new) == "new"
    verify = [*words(folder, rows)[:2], "--verify", str(folder / "out" / "all.pkl"), "--json"]
    verified = subprocess.run(verify, capture_output=True, text=True)
    assert verified.returncode == 0 and json.loads(verified.stdout)["status"] == "ok", (
        verified.stdout
    )
    files = sorted(p.name for p in (folder / "out").iterdir())
    assert files == ["all.pkl", "all.pkl.manifest.json"], files
    state["old"] = new
    resumed = "resumed" if "resuming" in err else "anew"
    return f"{how:8} after {moment:.2f} s, output {outcome}, then {resumed}"


def drill(folder: Path, kills: int, seed: int | None, rows: int) -> None:
    """`kills` rounds in `folder`; an AssertionError says what was lost, with the seed."""
    seed = random.randrange(1 << 30) if seed is None else seed
    with server(folder):
        rounds(folder, kills, seed, rows)


def rounds(folder: Path, kills: int, seed: int, rows: int) -> None:
    """Measure one run, then kill the others."""
    dice = random.Random(seed)
    wikipedia(folder / "wikipedia.pkl", rows)
    new_shards(folder, rows, 0)
    begin = time.monotonic()
    subprocess.run(words(folder, rows), check=True, capture_output=True)
    state = {"old": None, "span": time.monotonic() - begin}
    for path in (folder / "out").iterdir():
        path.unlink()
    for number in range(1, kills + 1):
        try:
            line = one_round(folder, dice, rows, state["span"], state)
        except AssertionError as error:
            raise AssertionError(f"round {number} of seed {seed}: {error}") from error
        print(f"{number:3d}  {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="rounds (%(default)s)")
    parser.add_argument("--seed", type=int, help="repeat a drill (default: a new one)")
    parser.add_argument("--rows", type=int, default=60_000, help="of each merge (%(default)s)")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="drill-embeddings."))
    try:
        drill(folder, args.kills, args.seed, args.rows)
    except AssertionError as error:
        print(f"drill_embeddings.py: {error}; look in {folder}", file=sys.stderr)
        return 1
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    print(f"{args.kills} kills, nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
