"""A C library that calls exit(): reported with its cause; every other end stays as it is."""

import subprocess
import sys

import pytest

from support.checkout import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks at Linux's exit()")
PROGRAM = """
import ctypes, os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from base_model import library_exit
c_exit = ctypes.CDLL(None).exit
def in_thread(do):
    thread = threading.Thread(target=do)
    thread.start()
    thread.join()
def forked():
    if child := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    c_exit(5)
with library_exit.handled(lambda error: print(f"reported: {error}", file=sys.stderr)):
    exec(sys.argv[2])
exec(sys.argv[3])
"""


def run(inside: str, after: str = "") -> tuple[int, str]:
    """(exit code, stderr) of a process that does `inside` in the block and `after` behind it."""
    words = [sys.executable, "-c", PROGRAM, str(ROOT / "scripts"), inside, after]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("inside", ["c_exit(1)", "c_exit(7)", "in_thread(lambda: c_exit(1))"])
def test_an_exit_of_c_code_is_reported_and_ends_with_1(inside):
    assert run(inside) == (1, "reported: exit() was called\n")


@pytest.mark.parametrize(
    ("inside", "after", "code"),
    [
        ("pass", "", 0),
        ("pass", "sys.exit(3)", 3),
        ("pass", "c_exit(4)", 4),
        ("sys.exit(3)", "", 3),
        ("in_thread(lambda: sys.exit(3))", "", 0),
        ("os._exit(3)", "", 3),
        ("os.kill(os.getpid(), signal.SIGTERM)", "", -15),
        ("forked()", "", 5),
    ],
)
def test_no_other_end_is_reported(inside, after, code):
    assert run(inside, after) == (code, "")


def test_an_error_in_the_block_is_that_error():
    code, err = run("raise ValueError('x')")
    assert code == 1 and err.endswith("ValueError: x\n") and "reported" not in err
