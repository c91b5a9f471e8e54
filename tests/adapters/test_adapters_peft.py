"""The table of features against PEFT itself: what it says of each kind of adapter is measured.

Tiny random models; an adapter of each kind, saved by PEFT as trainers save it.
"""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import pytest

from adapters import effect, weights
from kit import console

pytestmark = [pytest.mark.remote_env, pytest.mark.slow]
WORDS = 320
MOE = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}
KINDS = {  # name: (base, settings of LoraConfig)
    "plain": ("llama", {}),
    "rslora": ("llama", {"use_rslora": True}),
    "patterns": ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 4}}),
    "gaussian": ("llama", {"init_lora_weights": "gaussian"}),
    "eva": ("llama", {"init_lora_weights": "eva"}),
    "orthogonal": ("llama", {"init_lora_weights": "orthogonal"}),
    "mica": ("llama", {"init_lora_weights": "mica"}),
    "excluded": ("llama", {"target_modules": "all-linear", "exclude_modules": ["o_proj"]}),
    "one_layer": ("llama", {"layers_to_transform": [1]}),
    "dora": ("llama", {"use_dora": True}),
    "pissa": ("llama", {"init_lora_weights": "pissa"}),
    "olora": ("llama", {"init_lora_weights": "olora"}),
    "kasa": ("llama", {"kasa_config": {}}),
    "lora_bias": ("llama", {"lora_bias": True}),
    "lora_bias_on_biases": ("qwen", {"lora_bias": True}),
    "bias": ("qwen", {"bias": "all"}),
    "head": ("llama", {"modules_to_save": ["lm_head"]}),
    "norm": ("llama", {"modules_to_save": ["norm"]}),
    "tokens": ("llama", {"trainable_token_indices": [5, 6, 7]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied_embedding": ("tied", {"target_modules": ["embed_tokens", "q_proj"]}),
    "replicated": ("llama", {"layer_replication": [[0, 2], [1, 2]]}),
    "experts": ("moe", MOE),
    "shared_experts": ("moe", {"target_modules": ["gate_proj", "up_proj"]}),
    "qalora": ("llama", {"use_qalora": True}),
    "velora": ("llama", {"velora_config": {}}),
    # two features at once: the stricter one decides
    "dora_and_head": ("llama", {"use_dora": True, "modules_to_save": ["lm_head"]}),
    "patterns_and_lora_bias": ("qwen", {"rank_pattern": {"q_proj": 2}, "use_rslora": True,
                                        "alpha_pattern": {"v_proj": 4}, "lora_bias": True}),
    "tokens_and_norm": ("llama", {"trainable_token_indices": [5], "modules_to_save": ["norm"]}),
    "replicated_pissa": ("llama", {"layer_replication": [[0, 2], [1, 2]],
                                   "init_lora_weights": "pissa"}),
    "tied_tokens_and_dora": ("tied", {"trainable_token_indices": [5, 9], "use_dora": True}),
}  # fmt: skip
UNTRAINED = ("embedding", "tied_embedding")  # PEFT saves the whole matrix, though it is the base's


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    pytest.importorskip("torch", reason="needs the training stack (.venv-remote)")
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen2MoeConfig

    shape = {"vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 128}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    experts = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
               "num_experts": 4, "num_experts_per_tok": 2}  # fmt: skip
    configs = {
        "llama": LlamaConfig(**shape),
        "tied": LlamaConfig(**shape, tie_word_embeddings=True),
        "qwen": Qwen2Config(**shape),
        "moe": Qwen2MoeConfig(**shape, **experts),
    }
    root = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    for name, config in configs.items():
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            weight.data += torch.randn_like(weight) * 0.06
        model.save_pretrained(root / name)
    return root


class Workshop:
    """Makes adapters and compares models of one base."""

    def __init__(self, folder: Path, tmp_path: Path):
        self.folder, self.tmp_path = folder, tmp_path

    def base(self):
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def make(self, name: str, **settings) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model

        settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | settings
        torch.manual_seed(1)
        model = get_peft_model(self.base(), LoraConfig(task_type="CAUSAL_LM", **settings))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += torch.randn_like(weight) * 0.05
        model.save_pretrained(self.tmp_path / name)
        return self.tmp_path / name

    def load(self, *adapters: Path):
        from base_model import loading

        model = self.base()
        for folder in adapters:
            model = loading.attach(model, folder, f"{folder.name}_a")
        return model.eval()


def logits(model, rows: int = 1, **more):
    import torch

    ids = torch.tensor([[5, 6, 7, 100, 50, 30, 9]] * rows)
    with torch.no_grad():
        return model(input_ids=ids, **more).logits.float()


def same(one, other) -> bool:
    return float((one - other).norm() / other.norm()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_used_as_its_effect_says(bases, tmp_path, kind):
    base_name, settings = KINDS[kind]
    shop = Workshop(bases / base_name, tmp_path)
    folder, other = shop.make(kind, **settings), shop.make("other")
    adapter = weights.inspect(folder)
    weights.check_shapes(adapter, shop.folder)
    result = effect.of(adapter)
    result.check_load(kind)
    plain, alone = logits(shop.base()), logits(shop.load(folder))
    assert not same(alone, plain)
    with (model := shop.load(folder)).disable_adapter():
        untouched = same(logits(model), plain)
    assert untouched is (kind in UNTRAINED or not result.base_changes)
    if result.company != effect.ALONE:
        check_company(shop, folder, other, result.company, plain)
    check_merge(shop, folder, result, alone)


def check_company(shop: Workshop, folder: Path, other: Path, company: str, plain) -> None:
    wanted = {f"{f.name}_a": logits(shop.load(f)) for f in (folder, other)}
    model = shop.load(other, folder)
    for name in wanted:
        model.set_adapter(name)
        assert same(logits(model), wanted[name])
        with model.disable_adapter():
            assert same(logits(model), plain)
    names = [*wanted, "__base__"]
    if company == effect.TOGETHER:
        for row, name in zip(logits(model, 3, adapter_names=names), names, strict=True):
            assert same(row, wanted.get(name, plain)[0])
    else:
        with pytest.raises((KeyError, TypeError, ValueError)):
            logits(model, 3, adapter_names=names)


def check_merge(shop: Workshop, folder: Path, result: effect.Effect, alone) -> None:
    from transformers import AutoModelForCausalLM

    try:
        result.check_merge(folder.name, shop.folder)
    except console.Problem:
        with pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
            merged = shop.load(folder).merge_and_unload(safe_merge=True)
            assert same(logits(merged), alone)
            merged.save_pretrained(shop.tmp_path / "merged")
        return
    shop.load(folder).merge_and_unload(safe_merge=True).save_pretrained(shop.tmp_path / "merged")
    assert same(logits(AutoModelForCausalLM.from_pretrained(shop.tmp_path / "merged")), alone)


def test_pissa_by_a_random_svd_does_not_come_back(bases, tmp_path):
    shop = Workshop(bases / "llama", tmp_path)
    folder = shop.make("fast", init_lora_weights="pissa_niter_4")
    assert not same(logits(shop.load(folder)), logits(shop.load(folder)))
    with pytest.raises(console.Problem):
        effect.of(folder).check_load("fast")


def start_by_data(name: str, base, config) -> None:
    """What CorDA and LoRA-GA need before the adapter is made: the base has seen some rows."""
    import torch

    ids = torch.arange(250)[None] % 60

    def look():
        base(input_ids=ids, labels=ids).loss.backward()

    if name == "corda":
        from peft.tuners.lora.corda import preprocess_corda

        preprocess_corda(base, config, run_model=lambda: base(input_ids=ids))
    elif name == "lora_ga":
        from peft.tuners.lora import preprocess_loraga

        preprocess_loraga(base, config, look)


@pytest.mark.parametrize("name", ["pissa", "corda", "lora_ga"])
def test_a_converted_start_is_a_plain_lora(name, bases, tmp_path):
    """The remedy that refusals name, followed."""
    from peft import LoraConfig, LoraGAConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig

    shop = Workshop(bases / "llama", tmp_path)
    more = {"corda": {"corda_config": CordaConfig(corda_method="kpm", verbose=False)},
            "lora_ga": {"lora_ga_config": LoraGAConfig()}}.get(name, {})  # fmt: skip
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=name, **more)
    base = shop.base()
    start_by_data(name, base, config)
    model = get_peft_model(base, config)
    start = tmp_path / "start"
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(start)
    model.peft_config["default"].init_lora_weights = name
    for parameter, weight in model.named_parameters():
        if "lora_" in parameter:
            weight.data += 0.05
    trained = logits(model)
    model.save_pretrained(tmp_path / "out", path_initial_model_for_weight_conversion=str(start))
    converted = effect.of(tmp_path / "out")
    assert converted.base_changes == []
    converted.check_serve("a")
    assert same(logits(shop.load(tmp_path / "out")), trained)
    shutil.rmtree(start)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("kind", ["renamed", "deeper", "of_one_layer"])
def test_weights_that_the_base_has_no_place_for_are_refused(bases, tmp_path, kind, beside):
    """PEFT loads such an adapter with a warning, or without: it answers as its base does."""
    import json

    from safetensors.torch import load_file, save_file

    shop = Workshop(bases / "llama", tmp_path)
    folder, other = shop.make(kind), shop.make("other")
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(file)
    if kind == "renamed":
        tensors = {k.replace("model.layers", "model.language_model.layers"): t
                   for k, t in tensors.items()}  # fmt: skip
    elif kind == "deeper":
        tensors |= {k.replace("layers.1", "layers.7"): t.clone() for k, t in tensors.items()}
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"layers_to_transform": [0]}))
    save_file(tensors, file)
    with pytest.raises(console.Problem, match="does not fit the base model: its . layers"):
        shop.load(*([other] * beside), folder)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("CUDA error: unspecified launch failure", "the GPU failed"),
        ("CUDA out of memory. Tried to allocate 2 GiB", "out of GPU memory"),
        ("size mismatch", "cannot be merged"),
    ],
)
def test_a_merge_that_fails_says_whether_memory_card_or_adapter_is_the_cause(words, told):
    from adapters.exports import merged

    def fails(**_):
        raise RuntimeError(words)

    model = types.SimpleNamespace(merge_and_unload=fails)
    with pytest.raises(console.Problem, match=told):
        merged._merge(types.SimpleNamespace(reference="a@v1.0.0"), model)
