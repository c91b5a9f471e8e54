"""The host: its name, the ssh configuration of one command, and scripts that run there.

    with host.open_host("gpu1", "tandem") as there:
        there.run("uname -sm")

A HOST is an ssh name, or a folder beginning with /, ./ or ../ that stands in for a host's home;
every function here works on both. Names are allow-listed because remote quoting cannot be made
portable: rsync and its macOS twin treat the same name differently.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kit import console, paths

SSH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?")
REMOTE_PATH = re.compile(r"[A-Za-z0-9._/+=@~-]+")
PRIVATE = "/tmp/td."  # short: macOS allows 104 bytes for the path of a control socket

NO_HOST = (
    "say which host: add its name (gpu1, me@10.0.0.7) or a folder (./folder), set HOST=, "
    "or write it as host in configs/paths_config.json"
)
# What ssh says, what it means, what mends it. The first that matches wins.
REFUSALS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one this machine knows",
        "if the host was rebuilt, compare the new fingerprint and remove the old key "
        "(ssh-keygen -R NAME); if not, somebody may stand between: do not go on",
    ),
    (
        "Host key verification failed",
        "its host key is not known here yet",
        "log in once with ssh and compare the fingerprint, or add --accept-new-host-key",
    ),
    (
        "Permission denied",
        "it refused the login",
        "try ssh with this name: check User and IdentityFile, ssh-add a key with a passphrase, or "
        "put a password into a 0600 file and its path into TANDEM_SSH_PASSWORD_FILE",
    ),
    (
        "Too many authentication failures",
        "it refused the login after too many keys",
        "name one key for it in ~/.ssh/config: IdentityFile and IdentitiesOnly yes",
    ),
    (
        "Could not resolve hostname",
        "no such name",
        "check the spelling, ~/.ssh/config and the network",
    ),
    (
        "Connection refused",
        "nothing listens on its ssh port",
        "check that the host is up, and HostName and Port in ~/.ssh/config",
    ),
    (
        "timed out",
        "no answer within TIMEOUT s",
        "check that the host is up and that the VPN or firewall lets ssh through",
    ),
    (
        "Bad configuration option|Bad owner or permissions|terminating, [0-9]+ bad",
        "the ssh configuration has an error",
        "mend the line that ssh names",
    ),
)
# Variables of a command here that would mislead one there; ssh does not carry them either.
OURS = "HOST RAW DRY_RUN CONFIRM ARGS MAKEFLAGS MAKELEVEL MFLAGS VIRTUAL_ENV PYTHONPATH PYTHONHOME"
FINAL = re.compile("|".join(pattern for pattern, _, _ in REFUSALS[:4]))  # trying again cannot help


def check_remote_dir(text: str) -> str:
    """REMOTE_DIR as the scripts use it, relative to the home there unless it begins with /."""
    plain = text[2:] if text.startswith("~/") else text
    plain = re.sub(r"/+$", "", re.sub(r"/(\./|/)*", "/", plain))
    plain = plain[2:] if plain.startswith("./") else plain
    bad = not REMOTE_PATH.fullmatch(plain) or plain[0] in "-~" or plain == "."
    if bad or ".." in plain.split("/"):
        raise console.Misuse(
            f"remote_dir {text!r} cannot be used",
            "use a folder of letters, digits and . _ / + = @ ~ -, without .. and no - in front",
        )
    return plain


def choose(named: str | None) -> str:
    """HOST: the argument, else what the variables or the configuration say (kit/paths)."""
    name = named or paths.load()["host"]
    if not name:
        raise console.Misuse("no HOST given", NO_HOST)
    return name


class Running:
    """A script that runs on a host: the process here, its stderr, its code already on the way."""

    def __init__(self, process: subprocess.Popen, errors: IO[bytes] | None, code: bytes):
        self.process, self.errors = process, errors
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(code)
            process.stdin.flush()


class Host:
    """One host for one command. `root` is the kit's folder there, for use in scripts there."""

    def __init__(self, name: str, remote_dir: str, accept_new: bool = False):
        remote_dir = check_remote_dir(remote_dir)
        self.name = name
        self.folder: Path | None = None
        if name.startswith(("/", "./", "../")):
            self._be_folder(name, remote_dir)
        elif SSH_NAME.fullmatch(name):
            self.root = remote_dir
        else:
            raise console.Misuse(
                f"HOST {name!r} is not a name for ssh",
                "use letters, digits, . _ - (user@host too), or a folder beginning with / or ./",
            )
        self.remote_dir = remote_dir
        self.accept_new = accept_new
        self.private: Path | None = None
        self.env = dict(os.environ)

    def _be_folder(self, name: str, remote_dir: str) -> None:
        if not name.isprintable():
            raise console.Misuse(f"HOST {name!r} holds a control character", "rename the folder")
        if remote_dir.startswith("/"):
            raise console.Misuse(
                f"remote_dir {remote_dir} is absolute and HOST {name} is a folder",
                "use a relative remote_dir, or an ssh name",
            )
        self.folder = Path(os.path.abspath(name))
        if not self.folder.parent.is_dir():
            raise console.Misuse(
                f"HOST {name}: no folder {self.folder.parent}", f"mkdir -p {self.folder.parent}"
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise console.Misuse(f"HOST {name} is a file", "name a folder or an ssh name")
        self.root = f"{self.folder.name}/{remote_dir}"
        here = (self.folder / remote_dir).resolve()
        if here in (paths.ROOT, paths.workdir()):
            raise console.Misuse(
                f"HOST {name}: {here} is this checkout itself", "name another folder"
            )

    @property
    def place(self) -> str:
        """The kit's folder there as messages print it: gpu1:tandem."""
        return f"{self.name.rstrip('/')}{'/' if self.folder else ':'}{self.remote_dir}"

    @property
    def connected(self) -> bool:
        """Whether the connection that this command's sessions share is up."""
        return bool(self.folder or any(self.private.glob("c.*")))

    @property
    def ident(self) -> str:
        """One word for file names, another for each host and folder there."""
        import hashlib

        where = f"{self.folder or self.name}:{self.remote_dir}"
        word = re.sub(r"[^A-Za-z0-9]+", "-", where).strip("-")[-40:]
        return f"{word}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"

    @property
    def stage(self) -> str:
        """This laptop's staging folder in the kit there: two laptops never share one."""
        kept = paths.workdir() / ".cache" / "transfer" / "laptop"
        with contextlib.suppress(OSError):
            if known := kept.read_text(encoding="utf-8").strip():
                return f".incoming/{known}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(f"{os.urandom(6).hex()}\n", encoding="utf-8")
        return self.stage

    def open(self) -> None:
        """Write this command's ssh configuration into a folder that only this user can read."""
        if self.folder:
            return
        self.private = Path(f"{PRIVATE}{os.getpid()}.{os.urandom(4).hex()}")
        self.private.mkdir(0o700)
        password = self._offer_password()
        config = self.private / "config"
        config.write_text(ssh_config(self.private, self.accept_new, password), encoding="utf-8")

    def _offer_password(self) -> bool:
        """Let ssh ask our helper for a password: it reads a variable or a private file."""
        kept = os.environ.get("TANDEM_SSH_PASSWORD_FILE")
        if not kept and not os.environ.get("TANDEM_SSH_PASSWORD"):
            return False
        if kept:
            try:
                mode = Path(kept).stat().st_mode
            except OSError as error:
                raise console.Misuse(
                    f"TANDEM_SSH_PASSWORD_FILE: {kept}: {error.strerror}", "name a file"
                ) from None
            if mode & 0o077:
                raise console.Misuse(
                    f"TANDEM_SSH_PASSWORD_FILE: others can read {kept}", f"chmod 600 {kept}"
                )
        helper = self.private / "askpass"
        source = (
            'cat "$TANDEM_SSH_PASSWORD_FILE"' if kept else 'printf "%s\\n" "$TANDEM_SSH_PASSWORD"'
        )
        helper.write_text(f"#!/bin/sh\n{source}\n", encoding="utf-8")
        helper.chmod(0o700)
        self.env |= {"SSH_ASKPASS": str(helper), "SSH_ASKPASS_REQUIRE": "force"}
        self.env.setdefault("DISPLAY", ":0")  # OpenSSH before 8.4 asks the helper only with one
        return True

    def close(self) -> None:
        """End the shared connection and remove the configuration."""
        if self.private and any(self.private.glob("c.*")):
            end = shlex.join([*self.ssh(), "-O", "exit", self.name])
            command = ["/bin/sh", "-c", f"{end}; rm -rf {self.private}"]
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            subprocess.Popen(command, start_new_session=True, **quiet)  # nobody waits for it
        elif self.private:
            import shutil

            shutil.rmtree(self.private, ignore_errors=True)
        if self.private:
            _sweep()

    def ssh(self) -> list[str]:
        """The ssh command with this command's configuration, without the name."""
        return ["ssh", "-F", f"{self.private}/config"]

    def start(self, script: str, **pipes) -> Running:
        """Start a POSIX shell `script` in the home there; its result comes from `finish`.

        The script travels ahead of its input on stdin, so no login shell (fish, csh) parses it.
        """
        code = f"{{ {script}\n}}\n".encode("utf-8", "surrogateescape")  # half of it is an error
        command = f"""sh -c 'eval "$(dd bs=1 count={len(code)} 2>/dev/null)"'"""
        if self.folder:
            argv, cwd, env = ["/bin/sh", "-c", command], self.folder.parent, _env_there()
        else:
            argv, cwd, env = [*self.ssh(), self.name, command], None, self.env
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} | pipes
        if "stderr" not in pipes:  # not a pipe: a shared connection may keep it open
            pipes["stderr"] = errors = open(self._scratch(), "w+b")  # noqa: SIM115
        else:
            errors = None
        try:
            return Running(subprocess.Popen(argv, cwd=cwd, env=env, **pipes), errors, code)
        except FileNotFoundError:
            raise console.Problem("ssh is not installed", "install OpenSSH's client") from None

    def _scratch(self) -> int:
        """A descriptor of a new file without a name."""
        if not self.private:
            import tempfile

            with tempfile.TemporaryFile() as f:
                return os.dup(f.fileno())
        path = self.private / f"stderr.{os.urandom(4).hex()}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        path.unlink()
        return descriptor

    def finish(self, running: Running, data: bytes = b"") -> bytes:
        """The output of what `start` began. A Problem if it or the connection failed."""
        try:
            out, _ = running.process.communicate(data)
        except BaseException:
            running.process.kill()
            raise
        if running.process.returncode:
            running.errors.seek(0)
            stderr = running.errors.read().decode(errors="replace")
            raise self.problem(running.process.returncode, stderr)
        return out

    def run(self, script: str, data: bytes = b"") -> bytes:
        """Run a shell `script` there with `data` as its input and return its output."""
        return self.finish(self.start(script), data)

    def run_long(self, lines: list[str]) -> bytes:
        """Run a script of many lines there: all of it or, if the line is cut, nothing."""
        script = "\n".join(["{", *lines, "}", ""])
        return self.run("exec sh -s\n", script.encode("utf-8", "surrogateescape"))

    def problem(self, code: int, stderr: str) -> console.Problem:
        """What a failed ssh, rsync or script there said, as one line with its remedy."""
        for pattern, what, remedy in REFUSALS:
            if re.search(pattern, stderr):
                remedy = remedy.replace("NAME", self.name)
                what = what.replace("TIMEOUT", timeout())
                return console.Problem(f"{self.name}: {what} ({_last(stderr)})", remedy)
        if code == 255 and not self.folder:
            return console.Problem(
                f"{self.name}: the connection failed ({_last(stderr)})",
                f"try: ssh {self.name} true",
            )
        return console.Problem(
            f"{self.name}: {_last(stderr)} (exit {code})",
            "mend that there, then run the same command again",
        )

    def rsync_target(self, below: str = "") -> str:
        """The kit's folder there (or a folder below it) as rsync names it, ending with /."""
        home = f"{self.folder}/" if self.folder else f"{self.name}:"
        return f"{home}{self.remote_dir}/{below}".rstrip("/") + "/"

    def rsync_shell(self) -> list[str]:
        """rsync's option for the connection: none for a folder."""
        return [] if self.folder else ["-e", f"ssh -F '{self.private}/config'"]


@contextlib.contextmanager
def open_host(named: str | None = None, accept_new: bool = False) -> Iterator[Host]:
    """The host that the argument, the variables or the configuration name, until the block ends."""
    there = Host(choose(named), paths.load()["remote_dir"], accept_new)
    try:
        there.open()
        yield there
    finally:
        there.close()


def ssh_config(private: Path, accept_new: bool, password: bool) -> str:
    """Our own settings first (the first value holds in ssh), then the user's files."""
    extra = os.environ.get("TANDEM_SSH_CONFIG")
    if extra and not Path(extra).is_file():
        raise console.Misuse(f"TANDEM_SSH_CONFIG: no file {extra}", "name an ssh configuration")
    mine = [os.path.abspath(extra)] if extra else []
    included = [*mine, "~/.ssh/config", "/etc/ssh/ssh_config"]
    return "\n".join(
        [
            f"BatchMode {'no' if password else 'yes'}",
            "NumberOfPasswordPrompts 1",
            f"ConnectTimeout {timeout()}",
            f"ServerAliveInterval {os.environ.get('TANDEM_SSH_ALIVE') or 15}",
            "ServerAliveCountMax 4",
            f"StrictHostKeyChecking {'accept-new' if accept_new else 'yes'}",
            "Ciphers ^aes128-gcm@openssh.com",
            "ControlMaster auto",
            f"ControlPath {private}/c.%C",
            "ControlPersist 60",
            "RequestTTY no",
            "RemoteCommand none",
            "LogLevel ERROR",
            *(f'Include "{path}"' if " " in path else f"Include {path}" for path in included),
            "",
        ]
    )


def _env_there() -> dict[str, str]:
    """The environment in a folder that stands in for a host: nothing of ours leaks into it."""
    leak = OURS.split()
    return {k: v for k, v in os.environ.items() if k not in leak and not k.startswith("TANDEM_")}


def timeout() -> str:
    """Seconds to wait for a first answer: TANDEM_SSH_TIMEOUT, else 10."""
    return os.environ.get("TANDEM_SSH_TIMEOUT") or "10"


def quote(text: str) -> str:
    """`text` as one word of a POSIX shell."""
    return shlex.quote(text)


def _last(stderr: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip(" @\t")]
    return lines[-1] if lines else "it said nothing"


def _sweep() -> None:
    """Remove what a killed command of this user left in /tmp."""
    folder, _, prefix = PRIVATE.rpartition("/")
    for name in os.listdir(folder):
        pid = name.removeprefix(prefix).split(".")[0]
        if not name.startswith(prefix) or not pid.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.stat(f"{folder}/{name}").st_uid == os.getuid():
                try:
                    os.kill(int(pid), 0)
                except ProcessLookupError:
                    import shutil

                    shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
