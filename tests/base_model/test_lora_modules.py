"""Which modules LoRA may adapt is read from the headers, for any layout of layers."""

import json
import re

import pytest

from base_model import description, lora_modules
from config import loader
from kit import console
from support.model_files import LLAMA, LLAMA_LAYERS, PHI3, PHI3_LAYERS, shapes_of, write_model

SEVEN = list(LLAMA_LAYERS)
NAMES = [name.rpartition(".")[2] for name in SEVEN]


def lora(**values):
    words = [f"lora.{key}={json.dumps(value)}" for key, value in values.items()]
    return loader.load("training_config.yaml", words).lora


def refused(model, **values) -> str:
    with pytest.raises(console.Misuse) as raised:
        lora_modules.check(model, lora(**values))
    return str(raised.value)


def test_llamas_seven_names_fit_a_llama_layout(tmp_path):
    model = description.read(write_model(tmp_path, LLAMA))
    assert lora_modules.adaptable(model) == NAMES
    lora_modules.check(model, lora())
    assert lora_modules.checks(model, lora())[0].found == "14 linear layers of llama"


def test_a_phi3_layout_refuses_llamas_names_and_lists_its_own(tmp_path):
    """Two of the seven exist there: PEFT would train those two and say nothing."""
    model = description.read(write_model(tmp_path, PHI3))
    text = refused(model)
    assert "a phi3 model has no q_proj, k_proj, v_proj, gate_proj, up_proj" in text
    assert "qkv_proj, o_proj, gate_up_proj, down_proj" in text
    lora_modules.check(model, lora(target_modules=["qkv_proj", "gate_up_proj", "lm_head"]))


def test_without_weights_the_index_tells_and_without_an_index_the_source(tmp_path):
    write_model(tmp_path, PHI3)
    (tmp_path / "model.safetensors").unlink()
    wanted = {name.rpartition(".")[2] for name in PHI3_LAYERS}
    assert set(lora_modules.adaptable(description.read(tmp_path))) == wanted
    weight_map = dict.fromkeys(shapes_of(PHI3_LAYERS), "model-00001-of-00001.safetensors")
    index = {"weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(lora_modules.adaptable(description.read(tmp_path))) == wanted


def test_an_architecture_that_nobody_knows_is_described_by_its_headers(tmp_path):
    layers = {"mixer.wide": [64, 64], "mixer.narrow": [8, 64]}
    model = write_model(tmp_path, LLAMA | {"model_type": "of_tomorrow"}, shapes_of(layers))
    assert lora_modules.adaptable(description.read(model)) == ["wide", "narrow"]


def test_routed_experts_are_no_targets_and_the_reason_is_given(tmp_path):
    layers = {
        name: shape for name, shape in LLAMA_LAYERS.items() if name.startswith("self_attn")
    } | {f"mlp.experts.{i}.{name}": [64, 64] for i in range(4)
         for name in ("gate_proj", "up_proj", "down_proj")} | {"mlp.gate": [4, 64]}  # fmt: skip
    config = LLAMA | {"model_type": "qwen3_moe", "num_experts": 4}
    model = description.read(write_model(tmp_path, config, shapes_of(layers)))
    assert lora_modules.adaptable(model) == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert "no gate_proj, up_proj, down_proj" in refused(model)
    assert "routed experts" in refused(model)


def test_the_vision_part_is_left_out_and_that_is_said(tmp_path):
    shapes = {f"model.language_model.{n.removeprefix('model.')}": s
              for n, s in shapes_of(LLAMA_LAYERS).items()}  # fmt: skip
    vision = {f"model.vision_tower.encoder.layers.{i}.self_attn.q_proj.weight": [64, 64]
              for i in range(3)}  # fmt: skip
    config = {"model_type": "gemma3", "text_config": LLAMA | {"model_type": "gemma3_text"}}
    model = description.read(write_model(tmp_path, config, shapes | vision))
    assert lora_modules.adaptable(model) == NAMES
    (check,) = lora_modules.checks(model, lora())
    assert check.status == "ok" and "14 linear layers of gemma3; 3 of the vision" in check.found
    pattern = lora_modules.exclude_modules(model, lora())
    assert re.fullmatch(pattern, "model.vision_tower.encoder.layers.0.self_attn.q_proj")
    assert re.fullmatch(pattern, "vision_tower.encoder.layers.0.self_attn.q_proj")
    assert not re.fullmatch(pattern, "model.language_model.layers.0.self_attn.q_proj")
    plain = description.read(write_model(tmp_path / "plain", LLAMA))
    assert lora_modules.exclude_modules(plain, lora()) is None
    assert model.config["hidden_size"] == 64 and model.context == 2048


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba"])
def test_mamba_takes_neither_all_linear_nor_what_its_kernels_read(tmp_path, kind):
    layers = {"mixer.in_proj": [256, 64], "mixer.x_proj": [36, 128], "mixer.dt_proj": [128, 4],
              "mixer.out_proj": [64, 128]}  # fmt: skip
    shapes = {name.replace("model.", "backbone."): shape for name, shape in
              shapes_of(layers).items()}  # fmt: skip
    config = {"model_type": kind, "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256}
    model = description.read(write_model(tmp_path, config, shapes))
    assert lora_modules.adaptable(model) == ["in_proj", "x_proj"]
    assert "in_proj, x_proj" in refused(model, target_modules="all-linear")
    assert "has no out_proj" in refused(model, target_modules=["in_proj", "out_proj"])
    lora_modules.check(model, lora(target_modules=["in_proj", "x_proj"]))


def test_whole_modules_are_those_of_the_model(tmp_path):
    model = description.read(write_model(tmp_path, LLAMA))
    assert "has no nope" in refused(model, modules_to_save=["nope"])
    assert "has no wte" in refused(model, modules_to_save=["wte"])
    lora_modules.check(model, lora(modules_to_save=["lm_head", "embed_tokens", "norm"]))


def test_dotted_names_follow_pefts_rule(tmp_path):
    model = description.read(write_model(tmp_path, LLAMA))
    lora_modules.check(model, lora(target_modules=["self_attn.q_proj", "layers.1.mlp.up_proj"]))
    assert "layers.7.mlp.up_proj" in refused(model, target_modules=["layers.7.mlp.up_proj"])
    assert "mlp.q_proj" in refused(model, target_modules=["mlp.q_proj"])


DEEPSEEK = {
    "self_attn.q_a_proj": [32, 64], "self_attn.q_b_proj": [96, 32], "self_attn.o_proj": [64, 64],
    "self_attn.kv_a_proj_with_mqa": [48, 64], "self_attn.kv_b_proj": [128, 32],
    "mlp.shared_experts.gate_proj": [64, 64], "mlp.shared_experts.down_proj": [64, 64],
}  # fmt: skip


def test_names_that_peft_takes_for_routed_experts_are_no_targets_elsewhere(tmp_path):
    """PEFT would move gate_proj to the fused experts, and then refuse dropout while it loads."""
    config = LLAMA | {"model_type": "deepseek_v3", "n_routed_experts": 4}
    model = description.read(write_model(tmp_path, config, shapes_of(DEEPSEEK)))
    attention = [n.rpartition(".")[2] for n in DEEPSEEK if n.startswith("self_attn")]
    assert lora_modules.adaptable(model) == attention
    assert "PEFT takes that name for the routed experts" in refused(
        model, target_modules=["q_a_proj", "shared_experts.gate_proj"]
    )
    assert "set it to [q_a_proj" in refused(model, target_modules="all-linear")
    lora_modules.check(model, lora(target_modules=attention))


@pytest.mark.parametrize(
    ("kind", "layers", "free"),
    [
        ("jamba", {"mamba.in_proj": [256, 64], "mamba.dt_proj": [128, 4]}, "in_proj"),
        ("gemma3n_text", {"altup.correction_coefs": [4, 4], "self_attn.q_proj": [64, 64]},
         "q_proj"),
    ],
)  # fmt: skip
def test_a_weight_that_the_model_reads_past_lora_is_no_target(tmp_path, kind, layers, free):
    model = description.read(write_model(tmp_path, LLAMA | {"model_type": kind}, shapes_of(layers)))
    assert lora_modules.adaptable(model) == [free]
    dead = next(n.rpartition(".")[2] for n in layers if not n.endswith(free))
    assert "read directly, past LoRA" in refused(model, target_modules=[free, dead])


def test_with_mambas_kernels_its_x_proj_is_read_past_lora(tmp_path, monkeypatch):
    (tmp_path / "mamba_ssm.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    layers = {"mixer.in_proj": [256, 64], "mixer.x_proj": [36, 128]}
    config = LLAMA | {"model_type": "mamba"}
    model = description.read(write_model(tmp_path / "model", config, shapes_of(layers)))
    assert lora_modules.adaptable(model) == ["in_proj"]
