"""A version in the forms that other programs take: merged safetensors, GGUF, an Ollama model."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from adapters import load
from adapters.exports import chat_format, ollama
from adapters.store import Version
from kit import console, publish

FORMATS = ("merged", "gguf", "ollama")
CONVERTER = "convert_hf_to_gguf.py"
PROBE = "The quick brown fox jumps over the lazy dog."
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # relative, of the logits


def merged(version: Version, output: Path, **loading: Any) -> dict[str, Any]:
    """Publish base + adapter as one model in `output`; returns facts.

    The merged logits are compared with the adapter's: Problem if they are not the same model.
    """
    with publish.folder(_free(output)) as stage:
        return _merge(version, stage, **loading) | {"folder": str(output)}


def _free(output: Path) -> Path:
    if output.exists():
        raise console.Misuse(f"{output} exists already", "give another --output, or delete it")
    return output


def _merge(version: Version, stage: Path, **loading: Any) -> dict[str, Any]:
    import torch

    model, tokenizer, card = load.load(version, **loading)
    probe = tokenizer(PROBE, return_tensors="pt").to(model.device)["input_ids"]
    with torch.no_grad():
        before = model(probe).logits.float()
        one = model.merge_and_unload(safe_merge=True)
        after = one(probe).logits.float()
    error = float((after - before).norm() / before.norm())
    dtype = str(next(one.parameters()).dtype).removeprefix("torch.")
    if not error < TOLERANCE.get(dtype, 5e-2):
        raise console.Problem(
            f"{version.reference}: merged, it is another model (logits differ by {error:.2g})",
            "merge with --dtype float32",
        )
    one.save_pretrained(stage)
    tokenizer.save_pretrained(stage)
    facts = {"reference": version.reference, "base": card["base"], "dtype": dtype,
             "logits_relative_error": error}  # fmt: skip
    publish.json_file(stage / "export.json", facts)
    return facts


def find_converter() -> Path | None:
    """llama.cpp's converter: in $LLAMA_CPP (its checkout), on PATH, or in ~/llama.cpp."""
    folders = [os.environ.get("LLAMA_CPP"), Path.home() / "llama.cpp"]
    for folder in filter(None, folders):
        if (Path(folder) / CONVERTER).is_file():
            return Path(folder) / CONVERTER
    on_path = shutil.which(CONVERTER)
    return Path(on_path) if on_path else None


def gguf(version: Version, output: Path, outtype: str = "auto", **loading: Any) -> dict[str, Any]:
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
    _free(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gguf.", dir=output.parent) as folder:
        facts = _merge(version, Path(folder) / "merged", **loading)
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
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        fix = "its family or tokenizer may be unknown to llama.cpp; --format merged works for all"
        if "ModuleNotFoundError" in said[-1]:
            needed = converter.parent / "requirements" / "requirements-convert_hf_to_gguf.txt"
            fix = f"make {own.parent.parent} and install {needed} there"
        raise console.Problem(f"{CONVERTER} failed ({said[-1]})", fix)


def for_ollama(version: Version, output: Path, **loading: Any) -> dict[str, Any]:
    """Publish a folder for `ollama create NAME -f Modelfile`: merged weights and the Modelfile."""
    from transformers import AutoTokenizer

    own = (version.folder / "tokenizer_config.json").is_file()
    place = version.folder if own else load.base_of(version, loading.get("base_path"))
    tokenizer = AutoTokenizer.from_pretrained(place)
    text = modelfile_of(tokenizer)  # before the long work: a refusal comes at once
    with publish.folder(_free(output)) as stage:
        facts = _merge(version, stage, **loading)
        family = json.loads((stage / "config.json").read_text(encoding="utf-8"))["model_type"]
        if family not in ollama.IMPORTS:
            console.warn(
                f"Ollama imports no {family} model from safetensors: export --format gguf, and "
                f"write its file's name after FROM in the Modelfile"
            )
        (stage / "Modelfile").write_text(text, encoding="utf-8")
    return facts | {"folder": str(output), "modelfile": str(output / "Modelfile")}


def modelfile_of(tokenizer) -> str:
    """The Modelfile for a tokenizer's chat template; Problem where that cannot be translated."""
    jinja = tokenizer.chat_template
    if not isinstance(jinja, str):
        fix = "register a run whose tokenizer has one chat template"
        raise console.Problem("no chat template, or several", fix)

    def render(messages, opening: bool) -> str:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=opening
        )

    found = chat_format.find(render)
    bos = tokenizer.bos_token
    adds = bool(bos) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    notes = []
    if "tools" in jinja:
        notes.append("tool calls of the training template are not translated")
    if "strftime_now" in jinja:
        notes.append("the date in the template is that of this export")
    if adds and not found.start.startswith(bos):
        notes.append(f"Ollama puts {bos} first, which the training template does not")
    for note in notes:
        console.warn(note)
    stop = [tokenizer.eos_token] if tokenizer.eos_token else []
    end = next((t for t in tokenizer.get_added_vocab() if found.assistant[1].startswith(t)), None)
    return ollama.modelfile(
        found, ".", sorted({*stop, *([end] if end else [])}), bos if adds else None, notes
    )
