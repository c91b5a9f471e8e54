#!/usr/bin/env python3
"""Use a stack once: a table, a web page and a vector store, or a 4-bit forward pass.

    .venv-local/bin/python scripts/checks/smoke.py local
    .venv-remote/bin/python scripts/checks/smoke.py remote

Exit codes: 0 all work, 1 one does not.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from checks import gpu  # noqa: E402
from kit import console  # noqa: E402
from kit.report import Check, report  # noqa: E402

PAGE = (
    "<html><head><title>Tandem</title></head><body><nav>Home</nav><article><h1>Two machines</h1>"
    + "<p>A tandem is a bicycle for two riders, one behind the other, who pedal together.</p>" * 6
    + "</article></body></html>"
)


def table() -> str:
    """pandas writes a CSV and reads it again."""
    import pandas

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        rows = pandas.DataFrame({"text": ['ä, "b"', "c\nd"], "n": [1, 2]})
        rows.to_csv(path, index=False)
        if not pandas.read_csv(path).equals(rows):
            raise ValueError("a table is another one after writing and reading")
    return "a table survives a CSV"


def page() -> str:
    """trafilatura takes the article out of a page and leaves the menu."""
    import trafilatura

    text = trafilatura.extract(PAGE) or ""
    if "bicycle for two riders" not in text or "Home" in text:
        raise ValueError("the article was not found in a page")
    return "an article comes out of a page"


def vector_store() -> str:
    """Chroma stores three vectors on disk and finds the nearest."""
    import chromadb
    from chromadb.config import Settings

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        client = chromadb.PersistentClient(folder, Settings(anonymized_telemetry=False))
        store = client.create_collection("smoke", embedding_function=None)
        vectors = [[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]]
        store.add(ids=["a", "b", "c"], embeddings=vectors, documents=["x", "y", "z"])
        nearest = store.query(query_embeddings=[[0.1, 0.9]], n_results=1)["ids"]
        if nearest != [["b"]]:
            raise ValueError(f"the nearest of three vectors is b, not {nearest}")
    return "the nearest of three vectors is found"


def nf4() -> str:
    """bitsandbytes' 4-bit layer, on the GPU where there is one."""
    from setup import nf4_forward

    check = nf4_forward.check(gpu="--gpu" in sys.argv)
    if check.status != "ok":
        raise ValueError(check.found)
    return f"4-bit NF4 forward {check.found}"


USES = {
    "local": {"pandas": table, "trafilatura": page, "chromadb": vector_store},
    "remote": {"bitsandbytes": nf4},
}


def attempt(name: str, use: Callable[[], str], fix: str) -> Check:
    """`use` as a check, whatever it raises."""
    try:
        return Check(name, "ok", use())
    except Exception as error:
        return Check(name, "fail", f"{type(error).__name__}: {console.first_line(error)}", fix)


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("env", choices=sorted(USES))
    parser.add_argument("--gpu", action="store_true", help="the GPU must be used (remote)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    fix = f"./setup_{args.env}.sh --force"
    if args.env == "remote" and (hangs := gpu.hanging_driver()):
        return report(hangs, args.json)
    uses = USES[args.env].items()
    return report([attempt(f"use {name}", use, fix) for name, use in uses], args.json)


if __name__ == "__main__":
    console.run(main)
