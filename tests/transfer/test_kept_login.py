"""Hosts that want more than a key: a master that is logged in is used, and one login offered."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kit import console
from support.checkout import ROOT
from transfer import kept_login, refusals

PASSWORD = "open-sesame-7"
ASKED = "me@h: Permission denied (publickey,keyboard-interactive)."


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (ASKED, "password or a code is wanted"),
        ("me@h: Permission denied (password).", "password or a code is wanted"),
        ("me@h: Permission denied (publickey).", "it refused the login ("),
    ],
)
def test_a_refused_login_says_whether_a_code_is_wanted(said, line):
    problem = refusals.explain("gpu1", 255, said)
    assert line in problem.text and "TANDEM_SSH_PASSWORD_FILE" in problem.remedy
    assert "\n" not in str(problem)


@pytest.fixture
def on_terminal(monkeypatch):
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)


@pytest.mark.parametrize(
    "said",
    ["root@x: Permission denied (quota).", "mkdir: cannot create directory: Permission denied",
     "bash: /usr/bin/x: Permission denied (os error 13)"],
)  # fmt: skip
def test_another_programs_permission_is_no_login(said):
    assert refusals.explain("gpu1", 255, said) is None


def test_the_line_of_the_refusal_is_shown_and_not_a_later_one():
    text = "me@jump: Permission denied (publickey).\nConnection closed by UNKNOWN port 65535"
    assert "(me@jump: Permission denied (publickey).)" in str(refusals.explain("gpu1", 255, text))
    offer = "Unable to negotiate with 1.2.3.4 port 22: no matching cipher found. Their offer: x"
    assert refusals.is_final(offer) and refusals.explain("gpu1", 255, offer) is not None


@pytest.mark.parametrize(
    ("said", "offered"),
    [
        (ASKED, True),
        ("me@h: Permission denied (password).", True),
        (f"Permissions 0644 for '/k' are too open.\n{ASKED}", True),
        ("me@h: Permission denied (publickey).", False),
        ("ssh: connect to host h port 22: Connection refused", False),
    ],
)
def test_a_login_is_offered_where_a_password_or_a_code_helps(on_terminal, said, offered):
    assert kept_login.may_be_offered(refusals.explain("gpu1", 255, said)) is offered
    assert not kept_login.may_be_offered(console.Problem(f"gpu1: {said}"))


def test_without_a_terminal_nothing_is_offered(on_terminal, monkeypatch):
    problem = refusals.explain("gpu1", 255, ASKED)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    assert not kept_login.may_be_offered(problem)


def test_a_folder_of_somebody_else_keeps_no_login(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("/tmp")
    for name in ("open", "link"):
        with pytest.raises(console.Problem, match="is not a folder of this user's alone"):
            kept_login._own_folder(tmp_path / name)
    kept_login._own_folder(tmp_path / "new")
    kept_login._own_folder(tmp_path / "new")


@pytest.mark.parametrize(
    ("text", "asked"),
    [("Host a\n  ControlPath ~/x\n", True), ("include other\n", True), ("Host a\n", False),
     ("# includes nothing\n", False)],
)  # fmt: skip
def test_ssh_is_asked_only_where_a_master_may_be(tmp_path, text, asked):
    (tmp_path / "config").write_text(text)
    assert kept_login._mentions_master([str(tmp_path / "config"), "/nowhere"]) is asked


def start(place, *options):
    """A real sshd in `place`; skips where it cannot be."""
    script = str(ROOT / "tests" / "sshd.sh")
    ready = subprocess.run([script, "available"], capture_output=True, text=True)
    if ready.returncode == 0:
        ready = subprocess.run([script, "start", place, *options], capture_output=True, text=True)
    if ready.returncode == 77:
        pytest.skip(ready.stdout.strip())
    assert ready.returncode == 0, ready.stderr
    return place / "ssh_config"


@pytest.fixture
def place():
    """A folder that another account may enter."""
    made = Path(tempfile.mkdtemp(prefix="kept-login."))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def server(place):
    yield lambda *options: start(place / "sshd", *options)
    subprocess.run([str(ROOT / "tests" / "sshd.sh"), "stop", str(place / "sshd")], check=True)


def command(*words):
    return [str(ROOT / "scripts" / "host_run.sh"), "gpu-test", "--", *words]


def quiet_run(config, *words):
    """The command without a terminal."""
    env = os.environ | {"TANDEM_SSH_CONFIG": str(config), "TANDEM_REMOTE_DIR": "kit"}
    done = subprocess.run(
        command(*words), env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_master_of_the_users_is_used_and_not_ended(server, place):
    config = server()
    (place / "sshd" / "home" / "kit").mkdir()
    socket = place / "m"
    with config.open("a") as f:
        f.write(f"  ControlMaster auto\n  ControlPath {socket}\n  ControlPersist 60\n")
    ssh = ["ssh", "-F", str(config), "gpu-test"]
    subprocess.run([*ssh, "true"], check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (place / "sshd" / "authorized_keys").write_text("")  # no new login is possible
    for _ in range(2):
        assert quiet_run(config, "echo", "there") == (0, "there\n", "")
    subprocess.run([*ssh[:-1], "-O", "exit", "gpu-test"], check=True, stderr=subprocess.DEVNULL)
    code, _, errors = quiet_run(config, "echo", "there")
    assert code == 1 and errors.count("\n") == 1 and "it refused the login" in errors


def on_a_terminal(config, answer, *words):
    """(exit code, what stood on the terminal) of the command; `answer` is typed once."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TANDEM_SSH_CONFIG=str(config), TANDEM_REMOTE_DIR="kit")
        os.execv(command()[0], command(*words))
    shown, typed = b"", False
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
        if b"assword:" in shown and not typed:
            typed = True
            os.write(terminal, answer.encode() + b"\n")
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["--password", "--code"])
def test_a_login_is_offered_once_on_a_terminal_and_kept(server, place, monkeypatch, wanted):
    """--code: the key, then a word that PAM asks for, as with a second factor."""
    config = server(wanted, PASSWORD)
    (place / "sshd" / "home" / "kit").mkdir()
    code, _, errors = quiet_run(config, "echo", "there")
    assert (
        code == 1 and errors.count("\n") == 1 and "the same command in a terminal offers" in errors
    )
    code, shown = on_a_terminal(config, PASSWORD, "echo", "there")
    assert code == 0, shown
    assert "log in once" in shown and PASSWORD not in shown
    assert shown.rstrip().endswith("there")
    monkeypatch.setenv("TANDEM_SSH_CONFIG", str(config))
    socket = kept_login.kept_socket("gpu-test")
    try:
        assert quiet_run(config, "echo", "again") == (0, "again\n", "")
        listing = [sys.executable, ROOT / "scripts" / "jobs.py", "list", "--host", "gpu-test"]
        listed = subprocess.run(listing, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (listed.returncode, listed.stderr) == (0, "") and "no jobs" in listed.stdout
    finally:
        subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "gpu-test"],
                       check=True, stderr=subprocess.DEVNULL)  # fmt: skip
    assert quiet_run(config, "echo", "there")[0] == 1


@pytest.mark.slow
def test_a_wrong_password_keeps_nothing_and_is_one_problem(server, place, monkeypatch):
    config = server("--password", PASSWORD)
    with config.open("a") as f:
        f.write("  NumberOfPasswordPrompts 1\n")
    code, shown = on_a_terminal(config, "wrong", "true")
    assert code == 1 and "it refused the login" in shown and "Traceback" not in shown
    monkeypatch.setenv("TANDEM_SSH_CONFIG", str(config))
    assert not kept_login.kept_socket("gpu-test").exists()
