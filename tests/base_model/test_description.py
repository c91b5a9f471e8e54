"""A model's own files are read once: sizes under any name, parameters from the headers."""

import json

import pytest

from base_model import description, loading
from kit import console
from support.model_files import (
    LLAMA,
    LLAMA_LAYERS,
    PHI3,
    shapes_of,
    write_model,
    write_shard,
)
from training import model_shape


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
         {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
          "max_position_embeddings": 1024, "intermediate_size": 3072}),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 2560, "num_hidden_layers": 34}},
         {"hidden_size": 2560, "num_hidden_layers": 34, "model_type": "gemma3"}),
        ({"model_type": "mpt", "d_model": 64, "n_layers": 2, "max_seq_len": 2048},
         {"hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 2048}),
        ({"model_type": "falcon", "hidden_size": 64, "multi_query": True},
         {"num_key_value_heads": 1}),
        ({"model_type": "omni", "thinker_config": {"text_config": {"hidden_size": 32}}},
         {"hidden_size": 32}),
        ({"model_type": "gemma3n", "text_config": {"intermediate_size": [8, 16]}},
         {"intermediate_size": 16}),
    ],
    ids=["gpt2", "gemma3", "mpt", "falcon", "omni", "lists"],
)  # fmt: skip
def test_sizes_have_llamas_names_whatever_the_config_calls_them(raw, expected):
    values = description.normalised(raw)
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("values", "context"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 131072, "rope_scaling": {
            "factor": 8.0, "original_max_position_embeddings": 8192}}, 131072),
        ({"max_position_embeddings": 32768, "rope_scaling": {
            "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),
        ({"max_position_embeddings": None}, None),
    ],
)  # fmt: skip
def test_the_context_length_counts_what_scaling_adds(tmp_path, values, context):
    assert description.read(write_model(tmp_path, LLAMA | values)).context == context


def test_parameters_are_counted_from_the_headers(tmp_path):
    model = description.read(write_model(tmp_path, LLAMA))
    measured = model.measured
    assert measured["linear"]["down_proj"] == (192, 64, 2)
    assert measured["experts"] == 0 and measured["other"] == 2 * 256 * 64 + 3 * 64
    by_names = model_shape.of_config(LLAMA)
    counted = model_shape.of_config(model.sizes)
    assert counted.linear_parameters == by_names.linear_parameters
    phi = model_shape.of_config(description.read(write_model(tmp_path / "phi", PHI3)).sizes)
    assert phi.linear["gate_up_proj"] == (64, 384, 2)


def test_routed_experts_are_counted_apart_whatever_they_are_called(tmp_path):
    """Qwen3-30B-A3B has 57 GB of experts, which 4 bits leave in bfloat16."""
    layers = {f"mlp.experts.{i}.{name}": [96, 64] for i in range(4) for name in ("w1", "w2", "w3")}
    layers |= {"self_attn.q_proj": [64, 64]}
    shapes = shapes_of(layers) | {"model.layers.0.mlp.experts.gate_up_proj": [4, 64, 192]}
    model = description.read(write_model(tmp_path, LLAMA | {"model_type": "odd_moe"}, shapes))
    assert model.measured["experts"] == 2 * 12 * 96 * 64 + 4 * 64 * 192
    assert list(model.measured["linear"]) == ["q_proj"]


def test_a_model_of_several_shards_and_a_missing_one(tmp_path):
    shapes = shapes_of(LLAMA_LAYERS)
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    first = {n: s for n, s in shapes.items() if ".layers.0." in n}
    write_model(tmp_path, LLAMA, {"x": [1]})
    (tmp_path / "model.safetensors").unlink()
    write_shard(tmp_path / one, first)
    write_shard(tmp_path / two, {n: s for n, s in shapes.items() if n not in first})
    index = {"weight_map": {n: one if n in first else two for n in shapes}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(description.read(tmp_path).tensors) == set(shapes)
    (tmp_path / two).unlink()
    model = description.read(tmp_path)
    assert set(model.tensors) == set(first) and model.names == set(shapes)
    assert model.measured is None


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": ' * 3000])
def test_a_config_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(console.Problem, match=r"config\.json: not JSON"):
        description.read(tmp_path)


def test_an_index_that_names_files_elsewhere_reads_none_of_them(tmp_path):
    write_shard(tmp_path / "secret.safetensors", {"a": [1]})
    folder = write_model(tmp_path / "model", LLAMA)
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert description.read(folder).tensors == {}


# --- loading -------------------------------------------------------------------------------------


@pytest.mark.remote_env
def test_nothing_of_a_folder_is_run_and_no_pickle_is_read(tmp_path, monkeypatch):
    """Also where somebody answers yes to everything."""
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 99))
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nclass EvilConfig: pass\nclass EvilForCausalLM: pass\n"
    folder = write_model(tmp_path / "evil", LLAMA | {
        "model_type": "evil", "auto_map": {
            "AutoConfig": "modeling_evil.EvilConfig",
            "AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"}})  # fmt: skip
    (folder / "modeling_evil.py").write_text(code)
    with pytest.raises(console.Problem, match=r"auto_map names .*is never run"):
        loading.load(folder)
    pickled = write_model(tmp_path / "pickled", LLAMA)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(console.Problem, match="pickles only"):
        loading.load(pickled)
    assert not ran.exists()


@pytest.mark.remote_env
def test_an_adapter_without_safetensors_is_refused(tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(console.Problem, match="no adapter_model.safetensors"):
        loading.attach(None, tmp_path)
