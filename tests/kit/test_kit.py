"""The foundation: reports, publishing, JSONL, console."""

import json
import os
import subprocess
import sys

import pytest

from kit import console, jsonl, publish, secret_names
from kit.report import Check, exit_code, failed, report, table, worst
from support.checkout import ROOT

SCRIPTS = str(ROOT / "scripts")


def test_the_worst_status_decides(capsys):
    checks = [Check("a", "ok", "fine"), Check("b", "warn", "old", "renew it")]
    assert worst(checks) == "warn" and exit_code(checks) == 0
    checks.append(Check("c", "fail", "gone", "make c"))
    assert report(checks) == 1
    out = capsys.readouterr().out
    assert "FAIL  c  gone" in out and "fix: make c" in out and "1 ok, 1 warn, 1 fail, 0 skip" in out


def test_json_is_exactly_one_object(capsys):
    report([Check("a", "ok", "fine")], as_json=True, extra=1)
    body = json.loads(capsys.readouterr().out)
    assert body["status"] == "ok" and body["extra"] == 1


def test_a_failure_without_a_remedy_cannot_be_said():
    with pytest.raises(ValueError, match="no fix"):
        Check("a", "fail", "gone")


def test_colour_only_where_it_is_asked_for():
    checks = [Check("a", "fail", "x", "y")]
    assert "\033[31mFAIL\033[0m" in table(checks, coloured=True)
    assert "\033" not in table(checks)


@pytest.mark.parametrize(("terminal", "variable", "coloured"), [
    (True, None, True), (True, "", False), (True, "1", False), (False, None, False),
])  # fmt: skip
def test_colour_needs_a_terminal_and_no_no_color(monkeypatch, terminal, variable, coloured):
    class Stream:
        def isatty(self):
            return terminal

    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable is not None:
        monkeypatch.setenv("NO_COLOR", variable)
    assert console.colour(Stream()) is coloured


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "rows.jsonl"
    target.write_text("old")
    with pytest.raises(RuntimeError), publish.file(target) as f:
        f.write("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), publish.folder(tmp_path / "v1.0.0") as stage:
        (stage / "a").write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    with publish.folder(tmp_path / "v1.0.0") as stage:
        (stage / "a").write_text("whole")
    assert os.listdir(tmp_path / "v1.0.0") == ["a"]
    with pytest.raises(OSError), publish.folder(tmp_path / "v1.0.0") as stage:
        (stage / "a").write_text("other")
    assert (tmp_path / "v1.0.0" / "a").read_text() == "whole"


def test_lines_are_split_at_newlines_only(tmp_path):
    row = {"text": "a\u0085b\u2028c"}
    assert jsonl.write(tmp_path / "x.jsonl", [row, row]) == 2
    assert [r for _, r in jsonl.read(tmp_path / "x.jsonl")] == [row, row]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"a": "\xff"}', b"3", b"[" * 200_000])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(console.Problem, match=r"x\.jsonl:2: "):
        list(jsonl.read(path))


PROGRAM = """
import sys
sys.path.insert(0, {scripts!r})
from kit import console
def main():
    {body}
console.run(main)
"""


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        ("raise console.Problem('x is gone', 'bring it back')", 1, "x is gone; bring it back"),
        ("raise console.Misuse('no x')", 2, "no x"),
        ("raise KeyboardInterrupt", 130, ""),
        ("open('/nonexistent/file')", 1, "/nonexistent/file: No such file or directory"),
        ("import not_a_package", 1, "the package not_a_package is missing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143, ""),
        ("return 0", 0, ""),
    ],
)
def test_commands_end_with_one_line_and_the_right_code(body, code, expected):
    from conftest import ROOT

    text = PROGRAM.format(scripts=str(ROOT / "scripts"), body=body)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == code
    assert expected in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize(
    ("closed", "length", "code"), [("stdout", 9, 0), ("stdout", 99_999, 0), ("stderr", 9, 1)]
)
def test_only_a_reader_of_the_result_may_leave_early(closed, length, code):
    from conftest import ROOT

    body = f"print('x' * {length}, file=sys.{closed}, flush=True)"
    text = PROGRAM.format(scripts=str(ROOT / "scripts"), body=body)
    reader, end = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {closed: end}
    done = subprocess.run([sys.executable, "-c", text], **streams)
    os.close(end)
    assert done.returncode == code
    assert not done.stdout and not done.stderr


def test_sizes_and_times_in_words():
    assert console.size(1536) == "1.5 KB" and console.size(5) == "5 B"
    assert console.duration(75) == "1 min 15 s" and console.duration(3.21) == "3.2 s"


def test_a_problem_keeps_its_text_and_its_remedy_apart():
    problem = console.Problem("a.yaml: bad; and worse", "write it anew; then again")
    assert (problem.text, problem.remedy) == ("a.yaml: bad; and worse", "write it anew; then again")
    assert str(problem) == "a.yaml: bad; and worse; write it anew; then again"
    check = failed("config", problem)
    assert (check.found, check.fix) == (problem.text, problem.remedy)


HOSTILE = "gpu1\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202etxt"


@pytest.mark.parametrize("speak", [console.note, console.say, console.warn, console.result])
def test_no_control_sequence_reaches_the_terminal(speak, capsys):
    speak(f"{HOSTILE}\nsecond line")
    out = "".join(capsys.readouterr())
    assert not set(out) & set("\x1b\x07\r\x9b\u202e")
    many = speak in (console.note, console.result)
    assert "\\x1b]0;owned\\x07" in out and out.count("\n") == 1 + many


def test_a_name_with_a_line_feed_begins_no_line_of_its_own(capsys):
    """Otherwise a run's folder could write `ok    everything` below a failed check."""
    name = "a\nok    b"
    report([Check(name, "fail", name, name)])
    assert len(capsys.readouterr().out.splitlines()) == 3
    parser = console.ArgumentParser(prog="x.py")
    with pytest.raises(SystemExit):
        parser.parse_args([name])
    assert capsys.readouterr().err.count("\n") == 1
    code = "from kit import console\ndef main(): raise Kind\nconsole.run(main)"
    for kind in (f"console.Problem({name!r}, {name!r})", f"OSError(2, 'x', {name!r})"):
        command = [sys.executable, "-c", code.replace("Kind", kind)]
        done = subprocess.run(command, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": SCRIPTS})  # fmt: skip
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and r"a\nok" in done.stderr
    words = f'. {SCRIPTS}/kit/common.sh; die "$1; remedy"'
    done = subprocess.run(["bash", "-c", words, "x", name], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1


def test_shell_commands_forget_what_leads_a_python_astray_and_note_it():
    astray = {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "PYTHONINSPECT": "1"}
    words = f". {SCRIPTS}/kit/common.sh; {sys.executable} -c 'import json; print(1)'; env"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True,
                          env=os.environ | astray)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "1" and not any(line.partition("=")[0] in astray for line in lines)
    assert "TANDEM_FORGOTTEN=PYTHONPATH PYTHONHOME" in lines


def test_no_control_sequence_reaches_the_terminal_from_checks_and_errors(capsys):
    report([Check(HOSTILE, "fail", HOSTILE, HOSTILE)])
    assert not set(capsys.readouterr().out) & set("\x1b\x07\r\x9b\u202e")
    code = "from kit import console\n"
    code += f"def main(): raise console.Problem({HOSTILE!r})\nconsole.run(main)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONPATH": SCRIPTS}
    )
    assert done.returncode == 1 and b"\x1b" not in done.stderr and b"\\x1b[2J" in done.stderr


SECRETS = [
    "configs/secrets.yaml", "secret.json", "token.txt", ".pgpass", ".npmrc", ".git-credentials",
    "rclone.conf", "data/processed/.env.local", ".aws/config", "deploy/host.pem", "HF_TOKEN.txt",
    "id_ed25519_gpu", "sub/id_rsa", "API.KEY", "tensor01.credentials",
]  # fmt: skip
PLAIN = [
    "tokenizer.json", "special_tokens_map.json", ".env.example", "id_rsa.pub", "keys.txt",
    "configs/paths_config.json", "environment.yml", "docs/tokens.md",
]  # fmt: skip


@pytest.mark.parametrize("path", SECRETS)
def test_a_secret_is_one_for_git_the_leak_check_and_every_transfer(path):
    from transfer import exclusions

    assert secret_names.is_secret(path)
    assert exclusions.stays(path) == exclusions.SECRET
    if path.lower() == path or path.startswith("id_"):  # git's patterns know the case they show
        ignored = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT)
        assert ignored.returncode == 0, f"{path} is not in .gitignore"


@pytest.mark.parametrize("path", PLAIN)
def test_an_ordinary_name_is_no_secret(path):
    from transfer import exclusions

    assert not secret_names.is_secret(path)
    assert exclusions.stays(path) == ""
    ignored = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT)
    assert ignored.returncode == 1


def test_gitignore_repeats_the_list_of_secret_names():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    assert set(secret_names.PATTERNS) <= set(lines)
    assert {f"!*{ending}" for ending in secret_names.HARMLESS} <= set(lines)
