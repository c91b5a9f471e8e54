"""A host for one command: an ssh name or a folder that stands in for one; scripts that run there.

    with open_host("gpu1") as host:
        host.run("uname -sm", repeatable=True)

Every script runs inside a frame (transfer/frame.py). A script that may run twice is `repeatable`:
a connection that is lost under it is taken up again, five times, after 2 to 32 s. `run` gives a
script a login of its own, `run_in_shell` the shell that the command keeps there.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kit import console
from kit.moving_line import MovingLine
from transfer import address, kept_login, refusals, ssh_configuration
from transfer.address import Address
from transfer.frame import AnswerFrame, AnswerLimits, BrokenAnswer, Framed
from transfer.remote_script import READS_INPUT, RemoteScript, kept_shell, one_script
from transfer.retries import TRIES, ConnectionLost, persist

# Variables of a command here that would mislead one there; ssh does not carry them either.
OURS = "HOST RAW DRY_RUN CONFIRM ARGS MAKEFLAGS MAKELEVEL MFLAGS VIRTUAL_ENV PYTHONPATH PYTHONHOME"


class Host:
    """What FolderHost and SshHost share. `root` is the kit's folder there, for scripts there."""

    is_folder = is_bucket = False
    proof = "SHA-256"  # by what a push compares what arrived, as its last line says it

    def __init__(self, where: Address):
        self.address, self.name = where, where.name
        self.root, self.place = where.root, where.place
        self.private: Path | None = None
        self.reached = False  # an answer came already, so that a failure is the connection's
        self.banner = b""  # what its login prints before every answer
        self._kept: RemoteScript | None = None  # the last script of the kept shell

    @property
    def ident(self) -> str:
        """One word for file names, another for each host and folder there."""
        return self.address.ident

    def open(self) -> None:
        """Make the private folder of this command."""
        self.private = ssh_configuration.private_folder()

    def close(self) -> None:
        """Remove it, and what killed commands left."""
        if self._kept:
            self._kept.end()
        if self.private:
            ssh_configuration.remove(self.private)
        ssh_configuration.sweep()

    def start(self, script: str, keep_input: bool = False, data: bytes = b"", **pipes):
        """Start a framed POSIX shell `script` in the home there with `data` as its input.

        With `keep_input` stdin stays open after the script, and the caller closes it.
        """
        frame = AnswerFrame()
        code = frame.wrap(script).encode("utf-8", "surrogateescape")
        command, code = one_script(frame.token, code)
        remote = RemoteScript(*self._begin(command, pipes), frame)
        if keep_input:
            with contextlib.suppress(BrokenPipeError):
                remote.process.stdin.write(code)
                remote.process.stdin.flush()
        else:
            remote.feed(code, data)
        return remote

    def _begin(self, command: str, pipes: dict) -> tuple[subprocess.Popen, IO[bytes] | None]:
        """A process here that runs `command` there; the file that takes its stderr."""
        pipes, errors = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} | pipes, None
        if "stderr" not in pipes:  # not a pipe: a shared connection may keep it open
            path = self.private / f"stderr.{os.urandom(4).hex()}"
            pipes["stderr"] = errors = open(path, "x+b")  # noqa: SIM115
            path.unlink()
        try:
            return self._launch(command, pipes), errors
        except FileNotFoundError:
            raise console.Problem("ssh is not installed", "install OpenSSH's client") from None

    def _next(self, script: str) -> RemoteScript:
        """Give `script` to the kept shell."""
        if not self._kept or (self._kept.fed and self._kept.process.poll() is not None):
            self.log_in()
        _, first = kept_shell(self._kept.frame.token)
        first = b"" if self._kept.fed else first
        self._kept = self._kept.followed_by(frame := AnswerFrame())
        self._kept.feed(first + frame.wrap(script, kept=True).encode("utf-8", "surrogateescape"))
        return self._kept

    def log_in(self) -> None:
        """Begin the shell that this command keeps there. Does not wait for it."""
        command, _ = kept_shell((frame := AnswerFrame()).token)
        self._kept = RemoteScript(*self._begin(command, {}), frame, keep=True)
        self._kept.bound_errors()

    def _launch(self, command: str, pipes: dict) -> subprocess.Popen:
        raise NotImplementedError

    def run(
        self,
        script: str,
        data: bytes | None = b"",
        limits: AnswerLimits | None = None,
        repeatable: bool = False,
    ) -> bytes:
        """Run `script` there and return its output; a Problem if it or the connection failed."""
        limits, tries = limits or AnswerLimits(), TRIES if repeatable else 0
        return persist(self.name, lambda: self._run_once(script, data, limits), tries)

    def run_in_shell(self, script: str, doing: str, **options) -> bytes:
        """The same in the shell that this command keeps there.

        A login's start-up files take 0.1 to 0.5 s with conda or pyenv. Of a script that is cut
        nothing runs; one that fails ends the shell. A line says meanwhile what it is `doing`.
        """
        with MovingLine(f"{self.name}: {doing}") if doing else contextlib.nullcontext():
            return self.run(script, None, **options)

    def _run_once(self, script: str, data: bytes | None, limits: AnswerLimits) -> bytes:
        remote = self._next(script) if data is None else self.start(script, data=data)
        try:
            framed = remote.answer(limits)
        except BrokenAnswer as broken:
            errors = remote.stderr().strip()
            more = f" ({refusals.last_line(errors)})" if errors else ""
            raise console.Problem(
                f"{self.name}: {broken}{more}", f"look at what the host does: ssh {self.name}"
            ) from None
        self.check(framed, remote)
        return framed.body

    def check(self, framed: Framed, remote: RemoteScript) -> None:
        """A Problem if the script did not begin, did not end, or ended with another code than 0."""
        self.check_begun(framed, remote)
        if framed.code is None:
            raise self._broken_off(remote)
        if framed.code:
            raise self.script_failed(framed.code, remote.stderr())

    def check_begun(self, framed: Framed, remote: RemoteScript) -> None:
        """A Problem if the script did not begin: ssh failed, or the login runs something else."""
        if framed.begun:
            self.reached, self.banner = True, self.banner or framed.banner
            return
        code, stderr = remote.process.returncode, remote.stderr()
        known = self.reached or framed.banner.strip() or refusals.refusal_in(stderr)
        if code == 255 and not known:
            stderr = self.own_words() or stderr
        if problem := refusals.explain(self.name, code, stderr):
            retry = self.reached and not problem.refusal.final
            raise ConnectionLost(problem.text, problem.remedy) if retry else problem
        printed = framed.banner.decode(errors="replace") + stderr
        if code == 255 and not framed.banner.strip():
            raise ConnectionLost(
                f"{self.name}: the connection failed ({refusals.last_line(stderr, 3)})",
                f"try: ssh {self.name} true",
            )
        if READS_INPUT in stderr:
            raise console.Problem(f"{self.name}: {READS_INPUT}", refusals.START_FILE_READS)
        if self.reached:  # its login did run commands: the shell that was kept has ended
            raise self._broken_off(remote)
        words = " / ".join(line.strip() for line in printed.splitlines() if line.strip())[:300]
        raise console.Problem(
            f"{self.name}: the login there does not run commands (exit {code}); it said: "
            f"{words or 'nothing'}",
            f"do what it says; ssh {self.name} true must end well and print nothing",
        )

    def _broken_off(self, remote: RemoteScript) -> console.Problem:
        why = refusals.last_line(remote.stderr())
        if self.is_folder:
            return console.Problem(f"{self.name}: the answer broke off ({why})", "run it again")
        return ConnectionLost(
            f"{self.name}: the connection was lost ({why})",
            "run the same command again: it goes on where it stopped",
        )

    def script_failed(self, code: int, stderr: str) -> console.Problem:
        """What a script that ended with `code` wrote, as one line with its remedy."""
        complaint = refusals.last_line(stderr)
        return ScriptFailed(
            f"{self.name}: {complaint} (exit {code})",
            "repair that there, then run the same command again", code, complaint,
        )  # fmt: skip

    def own_words(self) -> str:
        """What the connection says of its failure when it is asked once more; '' for nothing."""
        return ""

    def rsync_target(self, below: str = "") -> str:
        """The kit's folder there (or a folder below it) as rsync names it, ending with /."""
        raise NotImplementedError

    def rsync_shell(self) -> list[str]:
        """rsync's option for the connection."""
        return []

    def environment(self) -> dict[str, str]:
        """The variables for ssh and rsync."""
        return dict(os.environ)


class ScriptFailed(console.Problem):
    """A script there ended with another code than 0: `exit_code`, its last words: `complaint`."""

    def __init__(self, text: str, remedy: str, exit_code: int, complaint: str):
        super().__init__(text, remedy)
        self.exit_code, self.complaint = exit_code, complaint


class FolderHost(Host):
    """A folder on this machine that stands in for a host; neither ssh nor rsync is needed."""

    is_folder = True

    @property
    def folder(self) -> Path:
        """The stand-in's home."""
        return self.address.folder

    def _launch(self, command: str, pipes: dict) -> subprocess.Popen:
        return subprocess.Popen(
            ["/bin/sh", "-c", command], cwd=self.folder.parent, env=environment_there(), **pipes
        )

    def rsync_target(self, below: str = "") -> str:
        return f"{self.folder}/{self.address.remote_dir}/{below}".rstrip("/") + "/"


class SshHost(Host):
    """A host behind OpenSSH; one connection serves every script and transfer of a command."""

    def __init__(self, where: Address, accept_new: bool = False):
        super().__init__(where)
        self.accept_new = accept_new
        self.password: dict[str, str] = {}
        self.words: str | None = None  # of a connection that failed

    def open(self) -> None:
        """Write this command's ssh configuration into its private folder."""
        super().open()
        self.password = ssh_configuration.offer_password(self.private)
        self._write_config()

    def _write_config(self) -> None:
        control = kept_login.control_lines(self.private, self.name, ssh_configuration.user_files())
        text = ssh_configuration.ssh_config(
            self.private, self.accept_new, bool(self.password), control
        )
        (self.private / "config").write_text(text, encoding="utf-8")

    def _run_once(self, script: str, data: bytes | None, limits: AnswerLimits) -> bytes:
        try:
            return super()._run_once(script, data, limits)
        except console.Problem as problem:
            if self.reached or self.password or not kept_login.may_be_offered(problem):
                raise
            files = ssh_configuration.user_files()
            if not kept_login.offer(self.private, self.name, files, self.accept_new):
                raise
        self._write_config()
        return super()._run_once(script, data, limits)

    def close(self) -> None:
        """End the shared connection and remove the configuration."""
        if self.private and any(self.private.glob("c.*")):
            end = shlex.join([*self.ssh(), "-O", "exit", self.name])
            command = ["/bin/sh", "-c", f"{end}; rm -rf {self.private}"]
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            subprocess.Popen(command, start_new_session=True, **quiet)  # nobody waits for it
            self.private = None
        super().close()

    def ssh(self) -> list[str]:
        """The ssh command with this command's configuration, without the name."""
        return ["ssh", "-F", f"{self.private}/config"]

    def own_words(self) -> str:
        """ssh's lines of one more try, once: some (on algorithms) are no errors to it, and those
        of a ProxyCommand are lost where the connection is shared."""
        if self.words is None:
            more = ["-o", "LogLevel=INFO", "-o", "ControlPath=none", self.name, "true"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = subprocess.run([*self.ssh(), *more], env=self.environment(), timeout=20,
                                      stdin=subprocess.DEVNULL, capture_output=True)  # fmt: skip
                self.words = done.stderr.decode(errors="replace")
        return self.words or ""

    def environment(self) -> dict[str, str]:
        return dict(os.environ) | self.password

    def _launch(self, command: str, pipes: dict) -> subprocess.Popen:
        return subprocess.Popen([*self.ssh(), self.name, command], env=self.environment(), **pipes)

    def rsync_target(self, below: str = "") -> str:
        return f"{self.name}:{self.address.remote_dir}/{below}".rstrip("/") + "/"

    def rsync_shell(self) -> list[str]:
        """ssh through a script that lifts the limit on file sizes: it holds for rsync alone."""
        script = self.private / "ssh"
        limit = "ulimit -S -f unlimited 2>/dev/null"
        script.write_text(f'{limit}\nexec {shlex.join(self.ssh())} "$@"\n', encoding="utf-8")
        return ["-e", f"sh '{script}'"]


def host_at(where: Address, accept_new: bool = False) -> FolderHost | SshHost:
    """The Host for an Address; nothing is connected or written yet."""
    return FolderHost(where) if where.folder else SshHost(where, accept_new)


@contextlib.contextmanager
def open_host(named: str | None = None, accept_new: bool = False) -> Iterator[FolderHost | SshHost]:
    """The host that the argument, the variables or the configuration name, until the block ends."""
    host = host_at(address.chosen(named), accept_new)
    try:
        host.open()
        yield host
    finally:
        host.close()


def environment_there() -> dict[str, str]:
    """The environment in a folder that stands in for a host: nothing of ours leaks into it."""
    leak = OURS.split()
    return {k: v for k, v in os.environ.items() if k not in leak and not k.startswith("TANDEM_")}


def quote(text: str) -> str:
    """`text` as one word of a POSIX shell."""
    return shlex.quote(text)
