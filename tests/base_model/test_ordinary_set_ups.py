"""The usual base models, in the layout of their published files, give no alarm.

The numbers are those of the repositories' config.json, with two layers of each model; the weights
are headers with holes.
"""

import json

import pytest

from base_model import description, folder_checks, lora_modules, readiness
from config import loader
from support.model_files import shapes_of, write_model, write_tokenizer

GEMMA_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
LLAMA3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192, "rope_type": "llama3"}  # fmt: skip
LONG_ROPE = {"type": "longrope", "long_factor": [1.0] * 48, "short_factor": [1.0] * 48}
PHI_CODE = {"AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}  # fmt: skip


def attention(hidden: int, heads: int, keys: int, size: int) -> dict[str, list[int]]:
    return {"self_attn.q_proj": [heads * size, hidden], "self_attn.k_proj": [keys * size, hidden],
            "self_attn.v_proj": [keys * size, hidden],
            "self_attn.o_proj": [hidden, heads * size]}  # fmt: skip


def llama_layers(hidden: int, inner: int, *heads: int) -> dict[str, list[int]]:
    return attention(hidden, *heads) | {"mlp.gate_proj": [inner, hidden],
            "mlp.up_proj": [inner, hidden], "mlp.down_proj": [hidden, inner]}  # fmt: skip


def phi3_layers(hidden: int, inner: int, heads: int, keys: int, size: int) -> dict[str, list[int]]:
    return {"self_attn.qkv_proj": [(heads + 2 * keys) * size, hidden],
            "self_attn.o_proj": [hidden, heads * size], "mlp.gate_up_proj": [2 * inner, hidden],
            "mlp.down_proj": [hidden, inner]}  # fmt: skip


MAMBA = {"mixer.in_proj": [10240, 2560], "mixer.x_proj": [192, 5120],
         "mixer.dt_proj": [5120, 160], "mixer.out_proj": [2560, 5120]}  # fmt: skip
SETS = {  # name: (model_type, hidden, inner, rows, heads, key heads, head size, more of config)
    "llama-3.1-8b": ("llama", 4096, 14336, 128256, 32, 8, 128, {"rope_scaling": LLAMA3_ROPE}),
    "llama-3.2-1b": ("llama", 2048, 8192, 128256, 32, 8, 64, {"tie_word_embeddings": True}),
    "mistral-7b-v0.3": ("mistral", 4096, 14336, 32768, 32, 8, 128, {"sliding_window": None}),
    "mistral-nemo": ("mistral", 5120, 14336, 131072, 32, 8, 128, {"head_dim": 128}),
    "qwen2.5-7b": ("qwen2", 3584, 18944, 152064, 28, 4, 128, {"use_sliding_window": False}),
    "qwen2.5-0.5b": ("qwen2", 896, 4864, 151936, 14, 2, 64, {"tie_word_embeddings": True}),
    "qwen3-8b": ("qwen3", 4096, 12288, 151936, 32, 8, 128, {"head_dim": 128}),
    "gemma-2-2b": ("gemma2", 2304, 9216, 256000, 8, 4, 256, {"head_dim": 256}),
    "gemma-3-1b": ("gemma3_text", 1152, 6912, 262144, 4, 1, 256, {"head_dim": 256}),
    "phi-3-mini-128k": ("phi3", 3072, 8192, 32064, 32, 32, 96,
        {"rope_scaling": LONG_ROPE, "auto_map": PHI_CODE,
         "original_max_position_embeddings": 4096}),
    "phi-4": ("phi3", 5120, 17920, 100352, 40, 10, 128, {"rope_scaling": None}),
    "phi-4-mini": ("phi3", 3072, 8192, 200064, 24, 8, 128,
        {"rope_scaling": LONG_ROPE, "auto_map": PHI_CODE, "partial_rotary_factor": 0.75,
         "tie_word_embeddings": True, "original_max_position_embeddings": 4096}),
    "mamba-2.8b": ("mamba", 2560, 5120, 50280, 0, 0, 0, {"state_size": 16, "expand": 2}),
}  # fmt: skip


@pytest.fixture(params=SETS)
def folder(request, tmp_path):
    """A model's folder; its tokenizer has 258 tokens."""
    kind, hidden, inner, rows, heads, keys, size, more = SETS[request.param]
    if kind == "mamba":
        layers, heads = MAMBA, 1
    elif kind == "phi3":
        layers = phi3_layers(hidden, inner, heads, keys, size)
    else:
        layers = llama_layers(hidden, inner, heads, keys, size)
    tied = more.get("tie_word_embeddings", kind in ("gemma2", "gemma3_text", "mamba"))
    config = {"model_type": kind, "hidden_size": hidden, "intermediate_size": inner,
              "num_hidden_layers": 2, "vocab_size": rows, "tie_word_embeddings": tied,
              "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
              "bos_token_id": 256, "eos_token_id": 257} | more  # fmt: skip
    if kind != "mamba":
        config |= {"num_attention_heads": heads, "num_key_value_heads": keys or 1}
    shapes = shapes_of(layers, hidden=hidden)
    shapes |= {"model.embed_tokens.weight": [rows, hidden], "lm_head.weight": [rows, hidden]}
    if tied:
        del shapes["lm_head.weight"]
    if kind.startswith("gemma"):
        shapes |= {f"model.layers.{i}.{n}.weight": [hidden] for i in (0, 1) for n in GEMMA_NORMS}
    if kind == "mamba":
        old = {"model.embed_tokens": "backbone.embeddings", "model.": "backbone."}
        for word, new in old.items():
            shapes = {name.replace(word, new): shape for name, shape in shapes.items()}
    write_model(tmp_path / request.param, config, shapes)
    return write_tokenizer(tmp_path / request.param)


def alarms(checks) -> list:
    return [c for c in checks if c.status in ("warn", "fail")]


def test_verify_model_says_ok(folder):
    from base_model.model_folder import ModelFolder

    model = ModelFolder(folder, folder.name)
    assert alarms(folder_checks.checks(model) + folder_checks.tokenizer_truth(model)) == []


def test_validate_says_ok(folder):
    check, gated = folder_checks.summary(str(folder), {})
    assert (check.status, gated) == ("ok", False)


def test_the_plan_says_ok(folder):
    from base_model import tokenizer

    model = description.read(folder)
    names = lora_modules.adaptable(model)
    words = [f"model.model_name_or_path={folder}", f"lora.target_modules={json.dumps(names)}"]
    settings = loader.load("training_config.yaml", words)
    checks = readiness.checks(model, settings)
    checks += readiness.of_tokenizer(tokenizer.load(folder), model)
    checks += readiness.of_rows(257, [100] * 8, None, model)
    assert alarms(checks) == []
    assert "linear layers" in lora_modules.checks(model, settings.lora)[0].found


def test_llamas_seven_names_are_those_of_its_relatives(folder):
    model = description.read(folder)
    if model.model_type in ("phi3", "mamba"):
        pytest.skip("its modules have names of their own")
    lora_modules.check(model, loader.load("training_config.yaml").lora)
