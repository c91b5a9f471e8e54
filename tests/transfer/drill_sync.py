"""Edit, kill and fill disks at random moments of a sync, on both sides; then find every byte again.

    make drill-sync [ARGS="--rounds 200 --seed 1 --ssh"]

A round runs a sync up and a sync down. Meanwhile a user writes files at random moments on the
laptop and on the host (in place, by rename, new ones), the sync is killed in half of the rounds,
and a disk fills up in some (that needs root, for a small tmpfs). Then both syncs run undisturbed.
The last thing that the user wrote to each file must be found, in its place or in .replaced/, on
the side where it was written; nothing half may have a final name. Exit codes: 0 every byte was
found, 1 something is lost, 2 called wrongly.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from kit import console  # noqa: E402

DISK = 48 << 20  # bytes of each side's small disk
WHOLE_DISKS = ("conflict", "edit", "kill", "fill")


class Side:
    """The laptop or the host: a folder on a disk of its own where that can be had."""

    def __init__(self, home: Path):
        self.home, self.ballast, self.mounted = home, home / "ballast", False
        home.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(home)]
            subprocess.run(command, check=True, capture_output=True)
            self.mounted = True

    def fill(self) -> None:
        """Leave no byte free."""
        with contextlib.suppress(OSError), open(self.ballast, "wb") as f:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        f.write(bytes(size))
                        f.flush()

    def empty(self) -> None:
        """Give the room back."""
        self.ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Take the disk away."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.home)], check=False, capture_output=True)


class User:
    """Writes files on one side at random moments and remembers what was last written to each."""

    def __init__(self, side: Path, paths: list[str], chance: random.Random):
        self.side, self.paths, self.chance = side, paths, chance
        self.last: dict[str, str] = {}

    def write(self, name: str) -> None:
        """One edit. An edit that fails (a full disk) is the user's own loss, and not counted."""
        path, token = self.side / name, f"user-{os.urandom(12).hex()}"
        self.last.pop(name, None)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.chance.random() < 0.5:
                with open(path, "w", encoding="utf-8") as f:
                    f.write(token + "\n")
            else:
                part = path.with_name(path.name + ".editor")
                part.write_text(token + "\n", encoding="utf-8")
                os.replace(part, path)
        except OSError:
            path.with_name(path.name + ".editor").unlink(missing_ok=True)
            return
        self.last[name] = token

    def work(self, seconds: float) -> threading.Thread:
        """Edit in a thread, a few times within `seconds`."""
        moments = sorted(self.chance.uniform(0, seconds) for _ in range(self.chance.randint(1, 5)))
        names = [self.chance.choice(self.paths) for _ in moments]

        def run() -> None:
            began = time.monotonic()
            for moment, name in zip(moments, names, strict=True):
                time.sleep(max(0.0, began + moment - time.monotonic()))
                self.write(name)

        thread = threading.Thread(target=run)
        thread.start()
        return thread


class Drill:
    """Both sides, the kit, and what happened so far."""

    def __init__(self, folder: Path, seed: int, ssh: bool):
        self.chance = random.Random(seed)
        self.folder, self.kit = folder, folder / "kit"
        self.laptop, self.host = Side(folder / "laptop"), Side(folder / "sshd" / "home")
        self.counts = dict.fromkeys((*WHOLE_DISKS, "files", "kept"), 0)
        self.there = self.host.home / "tandem"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
        for name in ("HOST", "REMOTE_DIR", "RSYNC", "DRY_RUN"):
            self.env.pop(name, None)
        self.env |= {"TANDEM_WORKDIR": str(self.laptop.home), "TANDEM_RETRY_WAIT": "0.02"}
        self.name = str(self.host.home)
        if ssh:
            command = [ROOT / "tests" / "sshd.sh", "start", folder / "sshd"]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            self.env["TANDEM_SSH_CONFIG"] = str(folder / "sshd" / "ssh_config")
            self.name = "gpu-test"
        self.ssh = ssh
        self._build()

    def _build(self) -> None:
        """A small kit, data here, results there."""
        for room in ("kit", "checks", "base_model", "transfer", "jobs"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "scripts" / room, self.kit / "scripts" / room, ignore=ignore)
        for name in ("paths.py", "sync_to_remote.sh", "sync_from_remote.sh"):
            shutil.copy2(ROOT / "scripts" / name, self.kit / "scripts" / name)
        (self.kit / "configs").mkdir()
        shutil.copy2(ROOT / "configs" / "paths_config.json", self.kit / "configs")
        (self.kit / ".venv-local").symlink_to(ROOT / ".venv-local")
        (self.kit / ".gitignore").write_text(".venv-*\n__pycache__\n")
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", "-C", str(self.kit), *command], check=True)
        data = self.laptop.home / "data" / "processed"
        data.mkdir(parents=True)
        (self.laptop.home / "data" / "synthetic").mkdir()
        for n in range(6):
            (data / f"f{n}").write_bytes(os.urandom(200 << (2 * n)))
        run = self.there / "adapters" / "runs" / "r1"
        (run / "final").mkdir(parents=True)
        (run / "final" / "adapter_config.json").write_text('{"r": 16}\n')
        (run / "final" / "README.md").write_text("made\n")
        (run / "status.json").write_text('{"state": "running"}\n')
        (self.there / "reports").mkdir()
        for n in range(4):
            (self.there / "reports" / f"r{n}.html").write_bytes(os.urandom(500))
        self.train()

    def train(self) -> None:
        """What a training on the host does: new weights, as one folder, and a longer log."""
        run = self.there / "adapters" / "runs" / "r1"
        part = run / ".final.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(run / "final", part)
        (part / "adapter_model.safetensors").write_bytes(os.urandom(300_000))
        shutil.rmtree(run / "final")
        part.rename(run / "final")
        with open(run / "log.txt", "a", encoding="utf-8") as f:
            f.write("step\n")

    def command(self, script: str) -> list[str]:
        """The sync as a user types it."""
        return [str(self.kit / "scripts" / script), self.name]

    def disturbed(self, script: str, users: list[User]) -> None:
        """One sync with edits, and perhaps a kill or a full disk."""
        seconds = self.chance.uniform(0.1, 1.5)
        what = self.chance.choice(("edit", "kill", "kill", "fill"))
        side = self.chance.choice((self.laptop, self.host))
        self.counts[what if what != "fill" or side.mounted else "edit"] += 1
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        process = subprocess.Popen(
            self.command(script), env=self.env, start_new_session=True, **quiet
        )
        threads = [user.work(seconds) for user in users]
        time.sleep(self.chance.uniform(0, seconds))
        if what == "kill":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        elif what == "fill" and side.mounted:
            side.fill()
        for thread in threads:
            thread.join()
        process.wait()
        side.empty()

    def settled(self, script: str) -> str:
        """The same sync undisturbed; its output. A conflict is said and is no failure here."""
        for _ in range(3):
            done = subprocess.run(
                self.command(script), env=self.env, capture_output=True, text=True, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            if done.returncode == 0 or "lacks what is here" in done.stderr:
                self.counts["conflict"] += done.returncode != 0
                return done.stdout + done.stderr
            time.sleep(0.1)
        raise Lost(f"{script} ends with {done.returncode}: {done.stderr.strip()[-600:]}")

    def round(self) -> None:
        """Disturb both syncs, finish both, look for everything."""
        here, there = self.laptop.home, self.there
        data = [f"data/processed/{name}" for name in ("f0", "f1", "f4", "new0", "new1")]
        results = [f"reports/r{n}.html" for n in range(4)]
        results += ["reports/new.html", "adapters/runs/r1/log.txt"]
        final = ["adapters/runs/r1/final/README.md", "adapters/runs/r1/final/notes.md"]
        users = [
            User(here, data, self.chance), User(there, data, self.chance),
            User(here, results + final, self.chance), User(there, results, self.chance),
        ]  # fmt: skip
        self.train()
        self.disturbed("sync_to_remote.sh", users[:2])
        self.disturbed("sync_from_remote.sh", users[2:])
        self.settled("sync_to_remote.sh")
        self.settled("sync_from_remote.sh")
        for user in users:
            self._find(user)
        self._compare()
        self._tidy()

    def _find(self, user: User) -> None:
        """Each last write of a user is on that side."""
        contents = [
            path.read_bytes()
            for path in user.side.rglob("*")
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 200
        ]
        for name, token in user.last.items():
            self.counts["files"] += 1
            where = [text for text in contents if token.encode() in text]
            if not where:
                raise Lost(f"{user.side}/{name}: what the user wrote there ({token}) is gone")

    def _compare(self) -> None:
        """Both sides agree, nothing waits, nothing is half."""
        for path in (self.laptop.home / "data" / "processed").iterdir():
            other = self.there / "data" / "processed" / path.name
            if not other.is_file() or not filecmp.cmp(path, other, shallow=False):
                raise Lost(f"{other} is not what is on the laptop")
        for path in (self.there / "reports").glob("*.html"):
            other = self.laptop.home / "reports" / path.name
            if not other.is_file() or not filecmp.cmp(path, other, shallow=False):
                raise Lost(f"{other} is not what is on the host")
        for top in (self.there, self.laptop.home / "adapters", self.laptop.home / "reports"):
            if (top / ".incoming").exists():
                raise Lost(f"{top}/.incoming was left")

    def _tidy(self) -> None:
        """Count and clear what was kept, and end conflicts, so that the disks do not fill up."""
        for top in (self.there, self.laptop.home / "adapters", self.laptop.home / "reports"):
            kept = top / ".replaced"
            self.counts["kept"] += sum(path.is_file() for path in kept.rglob("*"))
            shutil.rmtree(kept, ignore_errors=True)
        (self.laptop.home / "adapters" / "runs" / "r1" / "final" / "notes.md").unlink(
            missing_ok=True
        )

    def close(self) -> None:
        """End the server and the disks."""
        if self.ssh:
            command = [str(ROOT / "tests" / "sshd.sh"), "stop", str(self.folder / "sshd")]
            subprocess.run(command, check=False, capture_output=True)
        self.laptop.close()
        self.host.close()


class Lost(Exception):
    """Something of the user's is gone, or the syncs do not come to an end."""


def drill(rounds: int, seed: int, ssh: bool) -> dict[str, int]:
    """Run it; the counts. Raises Lost."""
    folder = Path(tempfile.mkdtemp(prefix="tandem-drill."))
    course = None
    try:
        course = Drill(folder, seed, ssh)
        for number in range(1, rounds + 1):
            try:
                course.round()
            except Lost as lost:
                raise Lost(f"round {number} of seed {seed}: {lost}") from None
            if number % 10 == 0:
                console.note(f"{number} rounds: {json.dumps(course.counts)}")
        return course.counts
    finally:
        if course:
            course.close()
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--ssh", action="store_true", help="over a real sshd on loopback")
    args = parser.parse_args(argv)
    try:
        counts = drill(args.rounds, args.seed, args.ssh)
    except Lost as lost:
        raise console.Problem(str(lost), f"run it again with --seed {args.seed}") from None
    console.result(
        f"{args.rounds} rounds (seed {args.seed}{', ssh' if args.ssh else ''}): "
        f"{counts['files']} files of the user's, all found; {counts['kill']} kills, "
        f"{counts['fill']} full disks, {counts['kept']} files kept in .replaced, "
        f"{counts['conflict']} conflicts said"
    )
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
