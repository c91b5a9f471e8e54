"""No shell file or Makefile uses what macOS's bash 3.2, make 3.81, BSD tools or rsync reject.

Each ban stands beside its reason and an example that it must find. A line that is right all the
same says why in a comment: `# macos-ok: reason`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.checkout import ROOT

SHIM = ROOT / "tests" / "openrsync-shim" / "rsync"

# (pattern, reason and what to write instead, an example)
SHELL = [
    (r"\b(mapfile|readarray)\b", "bash 4; read in a while loop", "mapfile -t a <x"),
    (r"\b(declare|local|typeset) -\w*A", "bash 4: no associative arrays", "declare -A map"),
    (r"\b(declare|local|typeset) -\w*n\b", "bash 4.3: no namerefs", "local -n ref=$1"),
    (r"\$\{\w+(\[[^]]*\])?(,,?|\^\^?)", "bash 4; use tr", 'x="${name,,}"'),
    (r"\$\{\w+@[QEPAaKk]\}", "bash 4.4; use printf %q", 'echo "${x@Q}"'),
    (r"\bwait -n\b", "bash 4.3; wait for a PID", "wait -n"),
    (r"&>>", "bash 4; write >>file 2>&1", "run &>>log"),
    (r"\|&", "bash 4; write 2>&1 |", "make |& tee log"),
    (r"printf ['\"]?%\([^)]*\)T", "bash 4.2; use date", "printf '%(%s)T' -1"),
    (r"\$\{\w+\[-\d+\]\}", "bash 4.3: no negative index", 'echo "${a[-1]}"'),
    (r"\[\[ (! )?-v ", 'bash 4.2; write [ -n "${x+set}" ]', "[[ -v name ]]"),
    (r"\bread\b[^|;]* -t ?0?\.\d", "bash 4: whole seconds only", "read -r -t 0.5 x"),
    (r"\bexec \{\w+\}[<>]", "bash 4.1; choose a number", "exec {fd}>lock"),
    (r"\$\([^)]*\bcase [^)]*\bin [^(;]*\)", "bash 3.2 ends $( there; write (a)", "$(case a in a)"),
    (r"\bcoproc\b", "bash 4", "coproc cat"),
    (r"\bshopt -s \w*(globstar|lastpipe|inherit_errexit)", "bash 4", "shopt -s globstar"),
    (r"\b(EPOCHSECONDS|EPOCHREALTIME|BASHPID)\b", "bash 4 or 5", "echo $EPOCHSECONDS"),
    (r"\breadlink -f\b", "BSD before macOS 12.3; use cd … && pwd -P", "readlink -f x"),
    (r"(?<![.\w])realpath\b", "not on older macOS; use cd … && pwd -P", "realpath x"),
    (r"\bsed -i(?! '')", "BSD needs a suffix; write a new file and mv", "sed -i s/a/b/ f"),
    (r"\bsed -\w*r", "GNU; write sed -E", "sed -r s/a/b/"),
    (r"\bdate (-d|--date)\b", "GNU; BSD has -v and -j", "date -d yesterday"),
    (r"\bdate [^|;)]*%N", "GNU: BSD prints N", "date +%s%N"),
    (r"\bstat (-c|--format|--printf)", "GNU; BSD has -f", "stat -c %s f"),
    (r"\bgrep -\w*P", "GNU; write grep -E", "grep -oP x"),
    (r"\bhead -(n|c) ?-\d", "GNU: BSD takes no negative count", "head -n -1"),
    (r"\bxargs (-\w+ )*-d", "GNU; write tr and xargs -0", "xargs -d '\\n' rm"),
    (r"\bdu -\w*b", "GNU; du -k", "du -sb x"),
    (r"\bdf --output", "GNU; df -Pk and awk", "df --output=avail"),
    (r"\bfind [^|;]*-(printf|readable|executable)\b", "GNU find only", "find . -printf %s"),
    (r"\bsort -\w*V", "GNU before macOS 13", "sort -V"),
    (r"(^|[;&|(] ?)timeout \d", "coreutils; not on macOS", "timeout 5 x"),
    (r"(^|[;&|(] ?)(flock|setsid|nproc|tac|shuf|numfmt) ", "Linux only", "flock 9 x"),
    (r"\bbase64 -w", "GNU; pipe through tr -d", "base64 -w0 x"),
    (r"\becho -e\b", "not portable; use printf", "echo -e x"),
    (r"\bln -\w*r", "GNU: no relative links", "ln -sr a b"),
    (r"\bmktemp --", "GNU: mktemp -d PATH.XXXXXX", "mktemp --directory"),
    (r"\bps [^|;]*--ppid", "Linux; pgrep -P", "ps --ppid 1"),
    (r"/proc/\w", "Linux only", "cat /proc/meminfo"),
    (r"\brsync\b.* --(append\b|append-verify|mkpath|zc=|checksum-choice|chown|fsync|outbuf"
     r"|ignore-missing-args|filter|protect-args)", "openrsync rejects it", "rsync --mkpath a b"),
    (r"\brsync\b.* --max-delete=0", "openrsync deletes everything", "rsync --max-delete=0 a b"),
    (r"\brsync\b.* --partial( |$)", "leaves half a file under its final name; --partial-dir",
     "rsync --partial a b"),
    (r"\brsync\b.* -\w*[sAX]\w* ", "openrsync rejects -s, -A and -X", "rsync -aX a b"),
]  # fmt: skip
# Under set -u, bash 3.2 calls an empty array unset. Looked for where an array begins as name=().
EMPTY_ARRAY = (
    r'(?<!\+)"\$\{(\w+)\[@\]\}"',
    'bash 3.2 with set -u: an empty array is unset; write ${a[@]+"${a[@]}"}',
    'run "${options[@]}"',
)
MAKE = [
    (r"^\.ONESHELL", "make 3.82; 3.81 ignores it silently", ".ONESHELL:"),
    (r"^\.SHELLFLAGS", "make 3.82; 3.81 ignores it silently", ".SHELLFLAGS = -ec"),
    (r"^\s*\w+ *!=", "make 4; use $(shell …)", "X != date"),
    (r"^define \w+ *:?=", "make 3.82; write define NAME alone", "define X ="),
    (r"^[^#\t]*&:", "make 4.3: no grouped targets", "a b &: c"),
    (r"\$\(file ", "make 4", "$(file >x,y)"),
]


def tracked() -> list[Path]:
    """Every shell file, bats file and Makefile of this project."""
    patterns = ["*.sh", "*.bash", "*.bats", "Makefile", "*.mk", ".ci/run"]
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    command += ["--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    if not files:  # no git: an unpacked archive
        files = [p for pattern in patterns for p in ROOT.rglob(pattern)]
        files = [p for p in files if "node_modules" not in p.parts and ".envs" not in p.parts]
    return [path for path in files if path.exists()]


def lines(path: Path) -> list[tuple[int, str]]:
    """(number, line) of the code: no comment lines, and no line that says macos-ok."""
    numbered = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [(n, t) for n, t in numbered if not t.lstrip().startswith("#") and "macos-ok" not in t]


def findings(path: Path) -> list[str]:
    """`file:line: what  (reason)` for each trap in one file."""
    bans = SHELL + (MAKE if path.name == "Makefile" or path.suffix == ".mk" else [])
    traps = [
        (number, line, reason)
        for number, line in lines(path)
        for pattern, reason, _ in bans
        if re.search(pattern, line)
    ]
    text = path.read_text(encoding="utf-8")
    if re.search(r"^set -\w*u", text, re.MULTILINE):
        empty = set(re.findall(r"\b(\w+)=\(\)", text))
        pattern, reason, _ = EMPTY_ARRAY
        traps += [
            (number, line, reason)
            for number, line in lines(path)
            if empty & set(re.findall(pattern, line))
        ]
    where = path.relative_to(ROOT)
    return [f"{where}:{number}: {line.strip()}  ({reason})" for number, line, reason in traps]


@pytest.mark.parametrize("ban", [*SHELL, EMPTY_ARRAY, *MAKE], ids=lambda ban: ban[2])
def test_each_ban_finds_its_example(ban):
    pattern, _, example = ban
    assert re.search(pattern, example)


def test_the_portable_form_of_an_array_is_allowed():
    assert not re.search(EMPTY_ARRAY[0], '${a[@]+"${a[@]}"}')


def test_there_are_shell_files_to_look_at():
    names = {path.name for path in tracked()}
    assert {"common.sh", "sync_to_remote.sh", "sync_to_remote.bats"} <= names


def test_no_shell_file_or_makefile_holds_a_macos_trap():
    traps = [finding for path in tracked() for finding in findings(path)]
    assert not traps, "\n" + "\n".join(traps)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--info=progress2", "--version"],
        ["--append-verify", "/a", "/b"],
        ["--mkpath", "/a", "/b"],
        ["-s", "/a", "/b"],
        ["-rltX", "/a", "/b"],
        ["--filter=P x", "/a", "/b"],
        ["--delete", "--max-delete=0", "/a", "/b"],
        ["-rlt", "/a", "host:with space"],
        ["-rlt", "/a", "host:/p$(cmd)"],
    ],
    ids=" ".join,
)
def test_the_openrsync_stand_in_refuses_what_openrsync_refuses(arguments):
    done = subprocess.run([SHIM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "(openrsync)" in done.stderr


def test_the_openrsync_stand_in_copies_with_the_shared_options(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    command = [SHIM, "-rlt", "--partial-dir=.p", "--timeout=60", f"{tmp_path}/a/", f"{tmp_path}/b/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "no real rsync" in done.stderr:
        pytest.skip("no rsync here; apt-get install rsync")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "x").read_text() == "x"
