"""Export a version as one GGUF file, by llama.cpp's converter."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from adapters.exports import merged
from adapters.version_store import Version
from kit import console, publish

CONVERTER = "convert_hf_to_gguf.py"


def find_converter() -> Path | None:
    """llama.cpp's converter: in $LLAMA_CPP (its checkout), on PATH, or in ~/llama.cpp."""
    folders = [os.environ.get("LLAMA_CPP"), Path.home() / "llama.cpp"]
    for folder in filter(None, folders):
        if (Path(folder) / CONVERTER).is_file():
            return Path(folder) / CONVERTER
    on_path = shutil.which(CONVERTER)
    return Path(on_path) if on_path else None


def export(version: Version, output: Path, outtype: str = "auto", **loading: Any) -> dict[str, Any]:
    """Publish the merged model as one GGUF file, by llama.cpp's converter.

    Problem with the exact commands where that is not installed.
    """
    converter = find_converter()
    if converter is None:
        raise console.Problem(
            f"llama.cpp's {CONVERTER} is not here",
            "git clone https://github.com/ggml-org/llama.cpp ~/llama.cpp and run this again, or: "
            f"checkpoint_manager.py export {version.reference} --format merged --output MERGED && "
            f"python {CONVERTER} MERGED --outfile {output} --outtype {outtype}",
        )
    merged.free_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gguf.", dir=output.parent) as folder:
        facts = merged.merge_into(version, Path(folder) / "merged", **loading)
        made = Path(folder) / output.name
        _convert(converter, Path(folder) / "merged", made, outtype)
        with made.open("rb") as f:
            os.fsync(f.fileno())
        os.replace(made, output)
    publish.fsync_folder(output.parent)
    return facts | {"file": str(output), "bytes": output.stat().st_size}


def _is_gguf(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as f:
        return f.read(4) == b"GGUF"


def _convert(converter: Path, folder: Path, file: Path, outtype: str) -> None:
    own = converter.parent / ".venv" / "bin" / "python"  # it wants packages that we do not
    python = own if own.exists() else sys.executable
    words = [python, converter, folder, "--outfile", file, "--outtype", outtype]
    words = list(map(str, words))
    console.say(shlex.join(words[1:]))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not _is_gguf(file):
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        fix = "its family or tokenizer may be unknown to llama.cpp; --format merged works for all"
        if "ModuleNotFoundError" in lines[-1]:
            needed = converter.parent / "requirements" / "requirements-convert_hf_to_gguf.txt"
            fix = f"make {own.parent.parent} and install {needed} there"
        raise console.Problem(f"{CONVERTER} failed ({lines[-1]})", fix)
