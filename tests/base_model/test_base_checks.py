"""What a base model is: said as what it is, with the remedy, before anything is loaded."""

import json
import types

import pytest

from base_model import base_checks, description, readiness
from support.model_files import LLAMA, PHI3, shapes_of, write_model, write_shard

LAYERS = {"self_attn.q_proj": [64, 64]}
NF4 = types.SimpleNamespace(load_in_4bit=True, load_in_8bit=False)
EIGHT = types.SimpleNamespace(load_in_4bit=False, load_in_8bit=True)


@pytest.fixture
def model(tmp_path):
    """model(config changes, shapes, dtype): the Description of a folder of files."""

    def make(changes=None, shapes=None, dtype="BF16"):
        config = LLAMA | (changes or {})
        return description.read(write_model(tmp_path, config, shapes, dtype))

    return make


def worst(checks):
    return [c for c in checks if c.status in ("warn", "fail")]


@pytest.mark.parametrize("config", [LLAMA, PHI3], ids=["llama", "phi3"])
def test_an_ordinary_model_gives_no_alarm(tmp_path, config):
    checks = base_checks.checks(description.read(write_model(tmp_path, config)), None, NF4)
    assert not worst(checks)
    assert any("B values, BF16" in c.found for c in checks)


@pytest.mark.parametrize(
    ("model_type", "apart"),
    [("llama", True), ("mistral", True), ("qwen3", True), ("gemma3_text", True), ("phi3", True),
     ("gpt2", True), ("lfm2", True), ("mamba", False), ("mamba2", False), ("falcon", False),
     ("bloom", False), ("jamba", False), ("qwen3_next", False), ("recurrent_gemma", False)],
)  # fmt: skip
def test_packing_is_refused_where_rows_would_see_each_other(model, model_type, apart):
    described = model({"model_type": model_type})
    packed = types.SimpleNamespace(packing=True)
    statuses = [check.status for check in readiness.packing(described, packed)]
    assert statuses == ([] if apart else ["fail"])
    assert readiness.packing(described, types.SimpleNamespace(packing=False)) == []
    assert readiness.packing(described, None) == []


@pytest.mark.remote_env
@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "phi3", "lfm2", "mamba", "opt", "falcon", "bamba"])
def test_what_is_said_of_packed_rows_is_what_the_model_computes(model_type):
    """The logits of a row after two others: they differ where it sees the one before it."""
    import torch
    from transformers import AutoModelForCausalLM

    from base_model import architectures, loading, miniature

    loading.quiet()
    torch.manual_seed(0)
    config = miniature.build_config(model_type, miniature.build_tokenizer(["a b"], model_type))
    tiny_model = AutoModelForCausalLM.from_config(config).float().eval()
    row, positions = torch.randint(5, 200, (1, 15)), torch.cat([torch.arange(20), torch.arange(15)])
    more = {} if model_type == "mamba" else {"position_ids": positions[None]}
    answers = []
    for _ in range(2):
        both = torch.cat([torch.randint(5, 200, (1, 20)), row], 1)
        answers.append(tiny_model(input_ids=both, use_cache=False, **more).logits[:, 20:])
    apart = bool((answers[0] - answers[1]).abs().max() < 1e-5)
    assert apart == architectures.keeps_packed_rows_apart(model_type)


def test_an_architecture_of_a_later_transformers_names_the_version(model):
    later = {"model_type": "llama9", "transformers_version": "99.1.0"}
    (check,) = base_checks.architecture(model(later))
    assert check.status == "fail" and "llama9 is unknown" in check.found
    assert "saved with transformers 99.1.0" in check.fix


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"architectures": ["LlamaForSequenceClassification"]},
        {
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "is_encoder_decoder": True,
        },
        {"model_type": "bart", "is_encoder_decoder": True},
        {"model_type": ""},
    ],
)
def test_what_writes_no_text_is_refused(model, changes):
    (check,) = base_checks.architecture(model(changes))
    assert check.status == "fail" and check.fix


def test_code_in_the_folder_is_refused_unless_transformers_has_those_classes(model):
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"}}
    (check,) = base_checks.custom_code(model(own))
    assert check.status == "fail" and "modeling_evil.EvilForCausalLM" in check.found
    phi = {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config",
                        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}}  # fmt: skip
    (check,) = base_checks.custom_code(model(PHI3 | phi))
    assert check.status == "ok" and "not run" in check.found


def test_a_tokenizer_with_code_is_refused(model):
    folder = model().folder
    config = {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (check,) = base_checks.custom_code(description.read(folder))
    assert check.status == "fail" and "tokenization_own.OwnTokenizer" in check.found


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_weights_as_pickles_alone_are_refused(model, name):
    folder = model().folder
    (folder / "model.safetensors").rename(folder / name)
    (check,) = base_checks.weights(description.read(folder))
    assert check.status == "fail" and name in check.found and "safetensors" in check.fix


def test_a_missing_shard_is_no_whole_model(model, tmp_path):
    folder = model().folder
    (folder / "model.safetensors").unlink()
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    shapes = shapes_of(LAYERS)
    write_shard(folder / one, {"model.norm.weight": [64]})
    names = {name: one if name == "model.norm.weight" else two for name in shapes}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    (check,) = base_checks.weights(description.read(folder))
    assert check.status == "fail" and f"{len(shapes) - 1} tensors" in check.found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ of 4 bits"),
        ({"quant_method": "awq", "w_bit": 4}, "AWQ of 4 bits"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "FP8 of 8 bits"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
    ],
)
def test_checkpoints_that_this_stack_cannot_train_are_named(model, values, expected):
    (check,) = base_checks.quantised(model({"quantization_config": values}), NF4)
    assert check.status == "fail" and check.found.startswith(expected)
    assert "unquantised" in check.fix


@pytest.mark.parametrize(
    ("tensor", "dtype", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.qweight", "I32", "GPTQ"),
        ("model.layers.0.self_attn.q_proj.weight", "F8_E4M3", "FP8"),
        ("model.layers.0.self_attn.q_proj.weight", "I8", "packed weights (I8)"),
        ("model.layers.0.self_attn.q_proj.W_q", "U8", "packed weights (U8)"),
        ("model.layers.0.self_attn.q_proj.weight_packed", "I32", "packed weights (I32)"),
    ],
)
def test_the_headers_tell_where_config_json_says_nothing(model, tensor, dtype, expected):
    (check,) = base_checks.quantised(model(None, {tensor: [64, 64]}, dtype), NF4)
    assert check.status == "fail" and expected in check.found


def test_masks_and_positions_of_whole_numbers_are_no_packed_weights(tmp_path):
    write_model(tmp_path, LLAMA)
    index = {"weight_map": {"model.layers.0.attention.bias": "model-00002-of-00002.safetensors"}}
    index["weight_map"] |= dict.fromkeys(description.read(tmp_path).names, "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    mask = {"model.layers.0.attention.bias": [1, 1, 2048, 2048]}
    write_shard(tmp_path / "model-00002-of-00002.safetensors", mask, dtype="U8")
    model = description.read(tmp_path)
    assert model.dtypes()["U8"] > model.dtypes()["BF16"]
    assert base_checks.quantisation(model) is None


def test_a_folder_of_mlx_is_named_and_not_called_broken(model):
    """Its weights are packed: their shapes are none that config.json tells."""
    packed = model({"quantization": {"group_size": 64, "bits": 4}}, None, "I32")
    (check,) = base_checks.quantised(packed, NF4)
    assert check.status == "fail" and check.found.startswith("MLX of 4 bits")
    narrow = shapes_of({"mlp.down_proj": [64, 24]})
    assert base_checks.misfits(model({"quantization": {"group_size": 64, "bits": 4}}, narrow)) == ""


def test_mllamas_rows_for_pictures_are_no_misfit(model):
    shapes = shapes_of({"cross_attn.q_proj": [64, 64], "mlp.down_proj": [64, 192]})
    shapes["model.embed_tokens.weight"] = [264, 64]
    mllama = model({"model_type": "mllama"}, shapes)
    assert base_checks.misfits(mllama) == "" and mllama.rows == 264
    assert {layer.name for layer in mllama.linears} == {"down_proj"}


def test_bitsandbytes_fits_where_the_configuration_asks_for_the_same(model):
    four = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    eight = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    assert base_checks.quantised(model(four), NF4)[0].status == "ok"
    assert base_checks.quantised(model(eight), EIGHT)[0].status == "ok"
    (check,) = base_checks.quantised(model(eight), NF4)
    assert check.status == "fail" and "asks for 4 bits" in check.found
    assert "load_in_8bit: true" in check.fix


def note(folder, file, commit):
    path = folder / ".cache" / "huggingface" / "download" / f"{file}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{commit}\n{'0' * 40}\n1700000000.0\n")


def test_the_revision_is_what_lies_there(model):
    base = model()
    assert base_checks.revisions(base, None) == [] and base_checks.commit(base.folder) is None
    assert base_checks.revisions(base, "a" * 40)[0].status == "warn"
    note(base.folder, "config.json", "a" * 40)
    assert base_checks.commit(base.folder) == "a" * 40
    assert base_checks.revisions(base, "aaaaaaa")[0].status == "ok"
    (check,) = base_checks.revisions(base, "b" * 40)
    assert check.status == "fail" and "--revision " + "b" * 40 in check.fix
    note(base.folder, "tokenizer.json", "c" * 40)
    assert "files of 2 revisions" in base_checks.revisions(base, "a" * 40)[0].found


@pytest.mark.parametrize("packed", [False, True])
def test_a_clone_is_held_against_the_revision(model, packed):
    folder = model().folder
    (git := folder / ".git").mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert base_checks.commit(folder) is None
    if packed:
        (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{'c' * 40} refs/heads/main\n")
    else:
        (git / "refs/heads").mkdir(parents=True)
        (git / "refs/heads/main").write_text("c" * 40 + "\n")
    assert base_checks.commit(folder) == "c" * 40
    (git / "HEAD").write_text("ref: refs/heads/../../../secret\n")
    assert base_checks.commit(folder) is None
    (git / "HEAD").write_text("d" * 40 + "\n")
    assert base_checks.commit(folder) == "d" * 40


def test_a_folder_of_the_cache_is_held_against_the_revision_too(model, tmp_path):
    home = tmp_path / "models--acme--small"
    (home / "refs" / "refs" / "pr").mkdir(parents=True)
    (home / "refs" / "v1.0").write_text("a" * 40)
    (home / "refs" / "refs" / "pr" / "3").write_text("b" * 40)
    base = model()
    folder = home / "snapshots" / ("a" * 40)
    files = [file for file in base.folder.iterdir() if file.is_file()]
    folder.mkdir(parents=True)
    for file in files:
        file.rename(folder / file.name)
    base = description.read(folder)
    statuses = {
        wanted: base_checks.revisions(base, wanted)[0].status
        for wanted in ("a" * 40, "AAAAAAA", "v1.0", "b" * 40, "refs/pr/3", "v2")
    }
    assert [*statuses.values()] == ["ok", "ok", "ok", "fail", "fail", "warn"], statuses
