"""What a PEFT folder must be to become a version: weights against adapter_config.json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adapters import weights
from support import adapter_runs

Q0 = "model.layers.0.self_attn.q_proj"


def difference(folder) -> str:
    with pytest.raises(weights.Difference) as raised:
        weights.inspect(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_sound_adapter_is_counted(tmp_path):
    adapter = weights.inspect(adapter_runs.peft_folder(tmp_path))
    assert adapter.parameters == 4 * 2 * 64 * 4 and adapter.rank == 4 and len(adapter.modules) == 4


def test_all_zero_b_is_refused_and_one_trained_module_is_enough(tmp_path):
    made = adapter_runs.tensors(scale=0.0)
    assert "every lora_B is zero" in difference(adapter_runs.peft_folder(tmp_path / "a", made))
    made[f"base_model.model.{Q0}.lora_B.weight"][3, 2] = 1e-8
    weights.inspect(adapter_runs.peft_folder(tmp_path / "b", made))


def test_minus_zero_is_zero(tmp_path):
    made = {k: (v * -0.0 if "lora_B" in k else v) for k, v in adapter_runs.tensors().items()}
    assert "every lora_B is zero" in difference(adapter_runs.peft_folder(tmp_path, made))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_are_refused_by_name(tmp_path, value):
    made = adapter_runs.tensors()
    made[f"base_model.model.{Q0}.lora_A.weight"][0, 0] = value
    assert f"{Q0}.lora_A holds NaN or Inf" in difference(adapter_runs.peft_folder(tmp_path, made))


def test_bfloat16_is_read_without_torch(tmp_path):
    """Written by hand, as numpy has no bfloat16: the upper half of a float32."""
    values = np.array([[1.0, -2.5], [0.0, 3.140625]], "f4")
    raw = (values.view("u4") >> 16).astype("<u2").tobytes()
    head = json.dumps({"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(head).to_bytes(8, "little") + head + raw)
    assert (weights.read(file, weights.header(file)["x"]) == values).all()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"r": 8}, "has rank 4, adapter_config.json says 8"),
        ({"r": None}, "rank r is None"),
        ({"peft_type": "IA3"}, "peft_type IA3 instead of LORA"),
        ({"target_modules": ["q_proj"]}, "v_proj is not among target_modules"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, "no weights for k_proj"),
        ({"modules_to_save": ["lm_head"]}, "no weights for lm_head"),
        ({"use_dora": True}, "use_dora is True"),
        ({"rank_pattern": {"v_proj": 2}}, "has rank 4, adapter_config.json says 2"),
    ],
)
def test_weights_that_the_configuration_does_not_describe_are_refused(tmp_path, changes, expected):
    assert expected in difference(adapter_runs.peft_folder(tmp_path, **changes))


def test_what_peft_allows_is_allowed(tmp_path):
    """Ranks by pattern, a regex of target modules, a module saved whole."""
    made = adapter_runs.tensors() | {"base_model.model.lm_head.weight": np.ones((9, 64), "f4")}
    folder = adapter_runs.peft_folder(
        tmp_path, made, r=8, rank_pattern={r"layers\.\d+\.self_attn\.[qv]_proj": 4},
        target_modules=r"model\.layers\.\d+\.self_attn\.(q|v)_proj", modules_to_save=["lm_head"],
    )  # fmt: skip
    adapter = weights.inspect(folder)
    assert adapter.rank == 4 and list(adapter.full) == ["base_model.model.lm_head.weight"]


def test_half_a_pair_and_no_lora_at_all_are_refused(tmp_path):
    made = adapter_runs.tensors()
    del made[f"base_model.model.{Q0}.lora_B.weight"]
    assert f"{Q0} has no lora_B" in difference(adapter_runs.peft_folder(tmp_path / "a", made))
    made = {"base_model.model.lm_head.weight": np.ones((2, 2), "f4")}
    assert "holds no LoRA weights" in difference(adapter_runs.peft_folder(tmp_path / "b", made))


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path, cut):
    folder = adapter_runs.peft_folder(tmp_path)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    assert difference(folder).startswith("adapter_model.safetensors: ")


def test_missing_files_and_no_json_are_named(tmp_path):
    folder = adapter_runs.peft_folder(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors: missing" in difference(folder)
    (folder / "adapter_config.json").write_text("{")
    assert "adapter_config.json: not a PEFT configuration" in difference(folder)
    (folder / "adapter_config.json").unlink()
    assert "adapter_config.json: missing" in difference(folder)


def test_an_adapter_of_another_width_does_not_fit_the_base(tmp_path):
    made = {k: np.ones((4, 32) if "lora_A" in k else (64, 4), "f4")
            for k in adapter_runs.tensors()}  # fmt: skip
    adapter = weights.inspect(adapter_runs.peft_folder(tmp_path / "a", made))
    with pytest.raises(weights.Difference, match="is 64 x 32, the base's 64 x 64"):
        weights.check_shapes(adapter, adapter_runs.base(tmp_path / "base"))
