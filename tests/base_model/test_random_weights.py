"""A base of the real size without its weights: holes on the disk, numbers drawn after loading."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from base_model import description, identity, loading, random_weights
from kit import console
from support.model_files import LLAMA, PHI3, write_model, write_tokenizer

pytestmark = pytest.mark.remote_env
NF4 = SimpleNamespace(
    load_in_4bit=True, load_in_8bit=False, bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16",
    bnb_4bit_quant_storage="uint8",
)  # fmt: skip
MAMBA = {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
         "state_size": 16, "intermediate_size": 128, "time_step_rank": 4}  # fmt: skip


def source(folder: Path, config: dict) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("tied", [False, True])
def test_the_files_have_the_size_of_the_real_ones_and_take_no_disk(tmp_path, tied):
    config = LLAMA | {"hidden_size": 1024, "vocab_size": 32000, "tie_word_embeddings": tied}
    facts = random_weights.write(source(tmp_path / "from", config), tmp_path / "out")
    model = description.read(tmp_path / "out")
    assert model.weight_bytes == facts["bytes"] > 32 << 20
    assert ("lm_head.weight" in model.names) is not tied
    files = identity.weight_files(tmp_path / "out")
    assert sum(file.stat().st_size for file in files) > facts["bytes"]
    assert sum(file.stat().st_blocks * 512 for file in files) < 1 << 20
    assert model.measured["linear"]["gate_proj"] == (1024, 192, 2)


def test_large_weights_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(random_weights, "SHARD_BYTES", 40_000)
    random_weights.write(source(tmp_path / "from", LLAMA), tmp_path / "out")
    assert len(identity.weight_files(tmp_path / "out")) > 2
    assert description.read(tmp_path / "out").broken == {}


@pytest.mark.slow
@pytest.mark.parametrize("config", [LLAMA, PHI3, MAMBA], ids=lambda c: c["model_type"])
@pytest.mark.parametrize("quantization", [None, NF4], ids=["bfloat16", "nf4"])
def test_a_loaded_model_computes_numbers_like_an_untrained_one(tmp_path, config, quantization):
    import torch

    if quantization and config is MAMBA:
        pytest.skip("Mamba is not trained in 4 bits")
    config = config | {"dtype": "bfloat16", "pad_token_id": 0}
    random_weights.write(source(tmp_path / "from", config), tmp_path / "out")
    model = loading.load(tmp_path / "out", dtype="bfloat16", quantization=quantization)
    ids = torch.arange(3, 60)[None]
    loss = float(model(input_ids=ids, labels=ids).loss.detach())
    assert math.isfinite(loss) and abs(loss - math.log(256)) < 1
    assert all(p.float().isfinite().all() for p in model.parameters())


def test_a_tokenizer_comes_along_and_quantised_weights_become_plain(tmp_path):
    config = LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    folder = write_tokenizer(source(tmp_path / "from", config))
    facts = random_weights.write(folder, tmp_path / "out")
    assert facts["tokenizer"] and "bfloat16" in facts["note"]
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_real_weights_are_never_written_over(tmp_path):
    real = write_model(tmp_path / "real", LLAMA)
    with pytest.raises(console.Misuse, match="has weights of its own"):
        random_weights.write(real, real)
    assert (real / "model.safetensors").is_file()


@pytest.mark.parametrize("config", [{"model_type": "unheard_of"}, {"hidden_size": 64}, LLAMA | {
    "num_attention_heads": "many"}])  # fmt: skip
def test_a_config_that_makes_no_model_is_one_line(tmp_path, config):
    with pytest.raises(console.Problem, match=r"config.json: no model can be made of it"):
        random_weights.write(source(tmp_path / "from", config), tmp_path / "out")
