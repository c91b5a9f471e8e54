"""Fixtures of this room: whole models, a model of a few kilobytes, verify_model on them."""

import hashlib
import json
from pathlib import Path

import pytest

import verify_model
from support.model_files import write_shard, write_tokenizer
from support.whole_models import LLAMA, make_model, note


@pytest.fixture(scope="package")
def builder(samples, tmp_path_factory):
    """builder(name): a whole model, made once; tests get a copy (holes stay holes)."""
    made: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in made:
            made[name] = make_model(samples / "models" / name, tmp_path_factory.mktemp("m") / name)
        return made[name]

    return build


@pytest.fixture
def model(builder, tmp_path):
    """model(name=Llama): a copy of the whole model in this test's models folder, made of links.

    A file that a test changes must be replaced: shards are links to holes of five gigabytes.
    """

    def get(name: str = LLAMA) -> Path:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        for path in builder(name).iterdir():
            if path.suffix == ".safetensors":
                (folder / path.name).hardlink_to(path)
            else:
                (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return get


@pytest.fixture
def verify(capsys, monkeypatch, tmp_path):
    """Run verify_model.py --json, in this process: (exit code, {check: its values})."""
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))

    def run(*arguments):
        code = verify_model.main(["--json", *map(str, arguments)])
        return code, {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}

    return run


@pytest.fixture
def small(tmp_path):
    """A model of a few kilobytes, as `hf download` leaves it, with true hashes."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "vocab_size": 264,
        "hidden_size": 4,
        "num_attention_heads": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    shapes = {"model.embed_tokens.weight": [264, 4], "model.layers.0.input_layernorm.weight": [4]}
    write_shard(folder / "model.safetensors", shapes)
    data = (folder / "model.safetensors").read_bytes()
    note(folder, "model.safetensors", "a" * 40, hashlib.sha256(data).hexdigest())
    text = (folder / "config.json").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()
    note(folder, "config.json", "a" * 40, blob)
    return folder
