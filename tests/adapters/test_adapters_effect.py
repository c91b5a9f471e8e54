"""What each kind of adapter does to its base: one answer for evaluation, server and exports."""

from __future__ import annotations

import numpy as np
import pytest

from adapters import effect, peft_config, weights
from adapters.exports import vllm
from kit import console
from support import adapter_runs

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
WHOLE_HEAD = {"base_model.model.lm_head.weight": np.ones((9, 64), "f4")}
TOKENS = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta":
          np.ones((3, 64), "f4")}  # fmt: skip


def effect_of(folder, tensors: dict | None = None, **config) -> effect.Effect:
    made = adapter_runs.tensors() | (tensors or {})
    return effect.of(adapter_runs.peft_folder(folder, made, **config))


@pytest.mark.parametrize(
    "config",
    [{}, {"lora_alpha": -8},
     {"use_rslora": True}, {"init_lora_weights": "gaussian"}, {"init_lora_weights": "eva"},
     {"exclude_modules": ["k_proj"]}, {"layers_to_transform": [0, 1]}, {"some_number": 16},
     {"init_lora_weights": False}, {"eva_config": {"rho": 2.0}, "auto_mapping": {"a": "b"}},
     {"later_switch": False, "later_list": [], "later_text": None}],
)  # fmt: skip
def test_an_ordinary_lora_can_be_used_in_every_way(tmp_path, config):
    lora = effect_of(tmp_path, **config)
    assert lora.features == () and lora.company == effect.TOGETHER
    lora.check_serve("a@v1.0.0", quantized=True)
    lora.check_merge("a@v1.0.0", adapter_runs.base(tmp_path / "base"))
    assert lora.vllm_refusals == [] and lora.base_changes == []


@pytest.mark.parametrize(
    ("tensors", "config", "company", "changes_base", "vllm"),
    [
        ({}, {"init_lora_weights": "pissa"}, "alone", True, False),
        ({}, {"init_lora_weights": "OLoRA"}, "alone", True, False),
        ({}, {"layer_replication": [[0, 2], [1, 2]]}, "alone", True, False),
        ({}, {"bias": "lora_only"}, "alone", True, False),
        ({f"{Q0}.base_layer.bias": np.ones(64, "f4")}, {}, "alone", True, False),
        (WHOLE_HEAD, {}, "alone", True, False),
        (WHOLE_HEAD, {"modules_to_save": ["lm_head"]}, "in turns", False, False),
        (TOKENS, {"trainable_token_indices": [5, 6, 7]}, "alone", False, False),
        ({}, {"target_parameters": ["mlp.experts.down_proj"]}, "in turns", False, False),
        ({f"{Q0}.lora_B.bias": np.ones(64, "f4")}, {"lora_bias": True}, "together", False, False),
        ({}, {"rank_pattern": {"q_proj": 4}}, "together", False, False),
        ({}, {"alpha_pattern": {"q_proj": 4}}, "together", False, False),
    ],
)
def test_what_follows_from_configuration_and_tensors(
    tmp_path, tensors, config, company, changes_base, vllm
):
    adapter = effect_of(tmp_path, tensors, **config)
    assert adapter.company == company
    assert bool(adapter.base_changes) is changes_base
    assert (adapter.vllm_refusals == []) is vllm


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"init_lora_weights": "pissa_niter_16"}, "each load draws another base"),
        ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "lora_ga"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "LoftQ quantised"),
        ({"init_lora_weights": "mystery"}, "init_lora_weights: mystery"),
        ({"arrow_config": {"top_k": 2}}, "router over other adapters"),
        ({"a_later_switch": True, "another": {"a": 1}}, "a_later_switch, another"),
    ],
)
def test_what_cannot_be_loaded_as_it_was_trained_is_refused_everywhere(tmp_path, config, text):
    adapter = effect_of(tmp_path, **config)
    base = adapter_runs.base(tmp_path / "base")
    for check in (lambda: adapter.check_load("a"), lambda: adapter.check_serve("a"),
                  lambda: adapter.check_merge("a", base)):  # fmt: skip
        with pytest.raises(console.Problem) as raised:
            check()
        assert text in str(raised.value) and raised.value.remedy


def test_a_start_that_needs_the_base_in_full_precision_is_refused_on_a_quantised_one(tmp_path):
    adapter = effect_of(tmp_path, init_lora_weights="pissa")
    adapter.check_load("a")
    with pytest.raises(console.Problem, match="4 or 8 bits"):
        adapter.check_load("a", quantized=True)


def test_one_that_must_be_alone_is_refused_beside_others(tmp_path):
    plain = effect_of(tmp_path / "plain")
    alone = effect_of(tmp_path / "alone", init_lora_weights="pissa")
    turns = effect_of(tmp_path / "turns", WHOLE_HEAD, modules_to_save=["lm_head"])
    assert effect.check_company({"a": plain, "b": plain}) == effect.TOGETHER
    assert effect.check_company({"a": plain, "b": turns}) == effect.IN_TURNS
    assert effect.check_company({"b": alone}) == effect.ALONE
    with pytest.raises(console.Problem, match=r"b \(PiSSA\) cannot be served beside others"):
        effect.check_company({"a": plain, "b": alone})


def test_layers_of_experts_take_turns(tmp_path):
    name = "base_model.model.model.layers.0.mlp.shared_expert.q_proj"
    made = {f"{name}.lora_A.weight": np.ones((4, 64), "f4"),
            f"{name}.lora_B.weight": np.ones((64, 4), "f4")}  # fmt: skip
    assert effect_of(tmp_path, made).company == effect.IN_TURNS


def test_a_merge_that_the_base_cannot_hold_is_refused(tmp_path):
    base = adapter_runs.base(tmp_path / "base")
    biased = effect_of(tmp_path / "a", {f"{Q0}.lora_B.bias": np.ones(64, "f4")}, lora_bias=True)
    with pytest.raises(console.Problem, match="q_proj has no bias"):
        biased.check_merge("a@v1.0.0", base)
    name = "base_model.model.model.embed_tokens"
    made = {f"{name}.lora_embedding_A": np.ones((4, 99), "f4"),
            f"{name}.lora_embedding_B": np.ones((64, 4), "f4")}  # fmt: skip
    tied = effect_of(tmp_path / "b", made, target_modules=["q_proj", "v_proj", "embed_tokens"])
    with pytest.raises(console.Problem, match="one matrix for input and output"):
        tied.check_merge("a@v1.0.0", base)


class Resizable:
    """A model that has rows in its embedding and takes others."""

    def __init__(self, rows: int):
        self.weight = np.ones((rows, 4))

    def get_input_embeddings(self):
        return self

    def resize_token_embeddings(self, rows: int) -> None:
        self.weight = np.ones((rows, 4))


@pytest.mark.parametrize(
    ("base", "saved", "tokens", "rows"),
    [(320, 384, 323, 384), (320, 300, 300, 300), (320, None, 323, 323), (320, None, 300, 320)],
)
def test_the_embedding_gets_the_rows_that_an_adapter_saved(tmp_path, base, saved, tokens, rows):
    """384: padded, more than the tokenizer has; 300: the vocabulary's padding was cut off."""
    name = "base_model.model.model.embed_tokens.weight"
    adapter = effect_of(tmp_path, {name: np.ones((saved, 64), "f4")} if saved else None)
    model = Resizable(base)
    assert effect.fit_embedding(model, [(adapter, tmp_path, range(tokens))]) is (rows != base)
    assert len(model.weight) == rows


def test_the_vllm_line_names_every_reason_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    from adapters import register

    run = adapter_runs.run(tmp_path, weights=adapter_runs.tensors() | TOKENS,
                           trainable_token_indices=[5, 6, 7], use_rslora=True)  # fmt: skip
    version = register.register(tmp_path / "adapters", run, "tokens")
    line = vllm.command(version)
    assert "vllm serve" not in line
    assert "trained tokens" in line and "export tokens@v1.0.0 --format merged" in line
    (version.folder / "adapter_config.json").chmod(0o644)
    (version.folder / "adapter_config.json").write_text("{")
    assert "not checked: adapter_config.json" in vllm.command(version)


def test_what_cannot_be_merged_is_not_advised_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    from adapters import register

    run = adapter_runs.run(tmp_path, layer_replication=[[0, 2], [1, 2]])
    line = vllm.command(register.register(tmp_path / "adapters", run, "layers"))
    assert "model_server.py --checkpoint layers@v1.0.0" in line and "merged" not in line


# --- what is allowed in the tensors ---------------------------------------------------------------


def test_excluded_modules_need_no_weights(tmp_path):
    names = ["q_proj", "v_proj", "o_proj"]
    weights.inspect(adapter_runs.peft_folder(
        tmp_path / "a", target_modules=names, exclude_modules=["o_proj"]))  # fmt: skip
    weights.inspect(adapter_runs.peft_folder(
        tmp_path / "b", target_modules=names, exclude_modules=r".*\.o_proj"))  # fmt: skip
    with pytest.raises(weights.Difference, match="no weights for o_proj"):
        weights.inspect(adapter_runs.peft_folder(
            tmp_path / "c", target_modules=names, exclude_modules=["k_proj"]))  # fmt: skip


def test_only_the_modules_of_target_parameters_have_other_ranks(tmp_path):
    name = "base_model.model.model.layers.0.mlp.experts"
    made = {f"{prefix}.lora_A.weight": np.ones((16, 64), "f4")
            for prefix in (name, f"{name}.base_layer")}  # fmt: skip
    made |= {key.replace("lora_A", "lora_B"): np.ones((64, 16), "f4") for key in made}
    both = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    folder = adapter_runs.peft_folder(
        tmp_path / "a", adapter_runs.tensors() | made, target_parameters=both
    )
    assert len(weights.inspect(folder).modules) == 6
    wrong = adapter_runs.tensors(rank=8) | made
    folder = adapter_runs.peft_folder(tmp_path / "b", wrong, target_parameters=both)
    with pytest.raises(weights.Difference, match="has rank 8"):
        weights.inspect(folder)


def test_nan_in_a_whole_module_is_found(tmp_path):
    head = {"base_model.model.lm_head.weight": np.full((9, 64), np.nan, "f4")}
    folder = adapter_runs.peft_folder(
        tmp_path, adapter_runs.tensors() | head, modules_to_save=["lm_head"]
    )
    with pytest.raises(weights.Difference, match=r"lm_head\.weight holds NaN"):
        weights.inspect(folder)


def test_a_transposed_base_fits_as_its_configuration_says(tmp_path):
    made = {f"base_model.model.{adapter_runs.weights_name(i, m)}.lora_{side}.weight":
            np.ones((4, 64) if side == "A" else (32, 4), "f4")
            for i in range(2) for m in adapter_runs.MODULES for side in "AB"}  # fmt: skip
    from safetensors.numpy import save_file

    base = adapter_runs.base(tmp_path / "base")
    names = [adapter_runs.weights_name(i, m) for i in range(2) for m in adapter_runs.MODULES]
    tensors = {f"{name}.weight": np.ones((64, 32), "f4") for name in names}
    save_file(tensors, base / "model.safetensors")
    folder = adapter_runs.peft_folder(tmp_path / "a", made, fan_in_fan_out=True)
    weights.check_shapes(weights.inspect(folder), base)
    folder = adapter_runs.peft_folder(tmp_path / "b", made)
    with pytest.raises(weights.Difference, match="is 32 x 64, the base's 64 x 32"):
        weights.check_shapes(weights.inspect(folder), base)


@pytest.mark.parametrize(
    "changes",
    [{"target_modules": 5}, {"target_modules": [["q_proj"]]}, {"target_modules": "("},
     {"rank_pattern": {"(": 4}}, {"rank_pattern": {"q_proj": "4"}}, {"rank_pattern": {"a": 0}},
     {"alpha_pattern": [1]}, {"modules_to_save": "lm_head"}, {"lora_alpha": "16"},
     {"use_dora": "yes"}, {"bias": "some"}, {"init_lora_weights": {}}, {"r": True}, {"r": 10**30},
     {"layer_replication": [[0]]}, {"trainable_token_indices": {"a": ["x"]}},
     {"base_model_name_or_path": 7}, {"exclude_modules": {"a": 1}}],
)  # fmt: skip
def test_a_key_of_another_type_is_one_line(tmp_path, changes):
    with pytest.raises(weights.Difference) as raised:
        peft_config.read(adapter_runs.peft_folder(tmp_path, **changes))
    assert str(raised.value).startswith("adapter_config.json: ") and "\n" not in str(raised.value)
