#!/usr/bin/env python3
"""Make notebooks/tandem_colab.ipynb from its readable source, notebooks/tandem_colab.py.

    python scripts/build_notebook.py            write the notebook
    python scripts/build_notebook.py --check    fail where it is not what the source says

Edit the source; the notebook is made from it, with no outputs in it, and the same source always
gives the same bytes. In the source a cell begins with `# %%`, or with `# %% [markdown]`.

Exit codes: 0 good, 1 the notebook differs from its source, 2 called wrongly.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kit import console, paths, publish

SOURCE = paths.ROOT / "notebooks" / "tandem_colab.py"
MARK = re.compile(r"^# %%( \[markdown\])?\n", re.M)
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def cells(text: str) -> list[dict[str, Any]]:
    """The notebook cells of a source in percent format; ids count them."""
    parts = MARK.split(text)[1:]
    made = []
    for number, (markdown, body) in enumerate(zip(parts[::2], parts[1::2], strict=True), 1):
        lines = body.strip("\n").split("\n")
        if markdown:
            lines = [re.sub(r"^# ?", "", line) for line in lines]
        source = [line + "\n" for line in lines[:-1]] + lines[-1:]
        cell = {"id": f"cell-{number:02d}", "metadata": {}, "source": source}
        if markdown:
            made.append({"cell_type": "markdown", **cell})
        else:
            made.append({"cell_type": "code", "execution_count": None, "outputs": [], **cell})
    return made


def notebook(source: Path) -> str:
    """The whole .ipynb text of a source. Problem where the source has no cells."""
    made = cells(source.read_text(encoding="utf-8"))
    if not made:
        raise console.Problem(f"{source}: no cells", "begin each with a line `# %%`")
    body = {"cells": made, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=SOURCE, help="percent format")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if they differ")
    args = parser.parse_args(argv)
    made, target = notebook(args.source), args.source.with_suffix(".ipynb")
    if args.check:
        committed = target.read_text(encoding="utf-8") if target.is_file() else ""
        if committed != made:
            raise console.Problem(
                f"{paths.show(target)} differs from {args.source.name}",
                "python scripts/build_notebook.py makes it anew",
            )
    else:
        with publish.file(target) as f:
            f.write(made)
    print(paths.show(target))
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
