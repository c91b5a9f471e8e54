"""Whole base models for the tests: real index files, sizes and headers; the weights are holes."""

import json
import shutil
from pathlib import Path

from support.model_files import write_shard, write_tokenizer

LLAMA, MISTRAL = "Llama-3.1-8B-Instruct", "Mistral-7B-Instruct-v0.3"
COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"


def shape_of(tensor: str, config: dict) -> list[int]:
    """The shape of a Llama or Mistral tensor by its name."""
    hidden, inner, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {
        "embed_tokens": [vocab, hidden],
        "lm_head": [vocab, hidden],
        "q_proj": [hidden, hidden],
        "o_proj": [hidden, hidden],
        "k_proj": [key_value, hidden],
        "v_proj": [key_value, hidden],
        "gate_proj": [inner, hidden],
        "up_proj": [inner, hidden],
        "down_proj": [hidden, inner],
    }
    return next((s for part, s in shapes.items() if part in tensor), [hidden])


def make_model(source: Path, folder: Path) -> Path:
    """A whole model: the real small files of `source`, and shards of the real sizes."""
    shutil.copytree(source, folder)
    sizes = {f["path"]: f["size"] for f in json.loads((folder / "FILES.json").read_text())["files"]}
    folder.chmod(0o755)
    (folder / "FILES.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for shard in sorted(set(index.values())):
        shapes = {t: shape_of(t, config) for t, s in index.items() if s == shard}
        write_shard(folder / shard, shapes, sizes[shard])
    write_tokenizer(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.ljust(sizes[name]))
    return folder


def note(folder: Path, file: str, commit: str, etag: str = "0" * 40) -> None:
    """What `hf download --local-dir` leaves about one file."""
    path = folder / ".cache" / "huggingface" / "download" / f"{file}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{commit}\n{etag}\n1700000000.0\n")
