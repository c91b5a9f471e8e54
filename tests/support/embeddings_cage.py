"""Reads files in a process with bounded memory: what hostile input may not exceed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.checkout import ROOT

READ_ALL = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from embeddings import {module}
from kit import console
limit = 400 << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
told = {{}}
for path in sorted(Path(sys.argv[2]).iterdir()):
    try:
        {call}
        told[path.name] = None
    except console.Problem as problem:
        told[path.name] = str(problem)
status = Path("/proc/self/status")  # ru_maxrss would count the process that started this one
peak = status.read_text().split("VmHWM:")[1].split()[0] if status.exists() else 0
print(json.dumps([told, int(peak), "numpy" in sys.modules]))
"""


def read_in_a_cage(files: dict[str, bytes], folder: Path, module: str, call: str):
    """Read every file in a process with bounded memory.

    Returns {name: message}, the peak in KB, and whether numpy was imported.
    """
    numbered = dict(enumerate(files))
    for number, name in numbered.items():
        (folder / f"{number:03d}.pkl").write_bytes(files[name])
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL.format(module=module, call=call), ROOT / "scripts", folder],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    messages, peak, numpy = json.loads(done.stdout)
    return {name: messages[f"{number:03d}.pkl"] for number, name in numbered.items()}, peak, numpy
