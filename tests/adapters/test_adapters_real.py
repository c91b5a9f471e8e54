"""A real Llama and a real LoRA: loading, merging, exporting, the canary. Needs .venv-remote."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from support import adapter_runs

pytestmark = [pytest.mark.remote_env, pytest.mark.slow]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|bos|>", "<|im_start|>", "<|im_end|>", "<pad>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({t: i for i, t in enumerate(special + letters)}, []))
    plain.add_special_tokens(special)
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<|bos|>",
                                   eos_token="<|im_end|>", pad_token="<pad>")  # fmt: skip
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A work folder with models/miniature and the runs `good` and `idle` (whose B·A is zero)."""
    pytest.importorskip("torch", reason="needs the training stack (.venv-remote)")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    work, coder = tmp_path_factory.mktemp("world"), tokenizer()
    set_seed(0)
    shape = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, max_position_embeddings=256,
        bos_token_id=0, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    base = work / "models" / "miniature"
    LlamaForCausalLM(shape).save_pretrained(base)
    coder.save_pretrained(base)
    for run, zeroed in (("good", ""), ("idle", "lora_A")):
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"],
                          task_type="CAUSAL_LM")  # fmt: skip
        model = get_peft_model(LlamaForCausalLM.from_pretrained(base), lora)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
            elif zeroed and zeroed in name:
                torch.nn.init.zeros_(weight)
        folder = work / "adapters" / "runs" / run
        model.save_pretrained(folder / "final")
        coder.save_pretrained(folder / "final")
        (folder / "status.json").write_text(json.dumps({"run_id": run, "state": "completed"}))
    return work


@pytest.fixture
def manage(world, monkeypatch, capsys):
    call = adapter_runs.caller("checkpoint_manager", world, monkeypatch, capsys)
    for run in ("good", "idle"):
        if not (world / "adapters" / run).exists():
            call("register", run, "--name", run)
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("HOME", str(world))
    return call


def logits(model, text: str = "The quick brown fox"):
    import torch

    with torch.no_grad():
        return model(**tokenizer()(text, return_tensors="pt").to(model.device)).logits.float()


def loaded(reference: str, **kwargs):
    from checkpoint_manager import CheckpointManager

    return CheckpointManager().load_checkpoint(reference, device="cpu", **kwargs)


def test_load_really_loads_base_and_adapter(manage):
    facts = json.loads(manage("load", "good@v1.0.0", "--device", "cpu", "--json").stdout)
    assert facts["adapter_parameters"] == 2 * 4 * (128 + 128 + 64 + 192)
    assert facts["device"] == "cpu" and facts["dtype"] == "float32"
    model, coder, card = loaded("good@^1.0")
    assert card["name"] == "good" and coder.chat_template == TEMPLATE
    with model.disable_adapter():
        plain = logits(model)
    assert (logits(model) - plain).norm() > 0.01 * plain.norm()


def test_the_version_folder_loads_with_pefts_own_class(manage, world, monkeypatch):
    import torch
    from peft import AutoPeftModelForCausalLM

    monkeypatch.chdir(world)  # the base's name in a version is relative to the checkout
    theirs = AutoPeftModelForCausalLM.from_pretrained("adapters/good/v1.0.0")
    ours, _, _ = loaded("good@v1.0.0")
    assert torch.equal(logits(theirs), logits(ours))


def test_another_base_is_refused_unless_told_otherwise(manage, world, tmp_path):
    shutil.copytree(world / "models" / "miniature", tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-2000:] = bytes(2000)
    file.write_bytes(data)
    done = manage("load", "good", "--base", tmp_path / "other", fails=1)
    assert "not the base model of good@v1.0.0: its weights differs" in done.stderr
    done = manage("load", "good", "--base", tmp_path / "other", "--any-base")
    assert "loaded all the same" in done.stderr
    done = manage("load", "good", "--base", tmp_path / "nowhere", fails=2)
    assert "no base model at" in done.stderr


def test_a_tampered_version_is_not_loaded(manage, world):
    file = world / "adapters" / "good" / "v1.0.0" / "adapter_model.safetensors"
    before = file.read_bytes()
    adapter_runs.rewrite(file, before[:-1] + b"\x00")
    try:
        assert "adapter_model.safetensors: its SHA-256" in manage("load", "good", fails=1).stderr
    finally:
        adapter_runs.rewrite(file, before)


def test_the_merged_model_is_base_plus_adapter_for_plain_transformers(manage, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = manage("export", "good", "--format", "merged", "--output", tmp_path / "m", "--json")
    assert json.loads(done.stdout)["logits_relative_error"] < 1e-4
    assert f"vLLM: vllm serve {tmp_path / 'm'}" in done.stderr
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="float32")
    expected = logits(loaded("good@v1.0.0")[0])
    assert (logits(merged) - expected).norm() < 1e-4 * expected.norm()
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template == TEMPLATE
    again = manage("export", "good", "--format", "merged", "--output", tmp_path / "m", fails=2)
    assert "exists already" in again.stderr


def test_the_ollama_folder_has_weights_and_the_training_template(manage, tmp_path):
    done = manage("export", "good", "--format", "ollama", "--output", tmp_path / "o")
    text = (tmp_path / "o" / "Modelfile").read_text()
    assert "FROM ." in text and 'PARAMETER stop "<|im_end|>"' in text
    assert '{{ "<|im_start|>user\\n" }}{{ $m.Content }}{{ "<|im_end|>\\n" }}' in text
    assert (tmp_path / "o" / "model.safetensors").is_file()
    assert "ollama create good -f Modelfile" in done.stderr


def test_without_llama_cpp_the_exact_commands_are_said_and_nothing_is_made(manage, tmp_path):
    done = manage("export", "good", "--format", "gguf", "--output", tmp_path / "m.gguf", fails=1)
    assert "git clone https://github.com/ggml-org/llama.cpp" in done.stderr
    assert "python convert_hf_to_gguf.py MERGED --outfile" in done.stderr
    assert list(tmp_path.iterdir()) == []


CONVERTER = """#!{python}
# Stands in for llama.cpp's converter: writes what it was called with, as the real one is called.
import json, pathlib, sys
model, _, outfile, _, outtype = sys.argv[1:]
config = json.loads(pathlib.Path(model, "config.json").read_text())
assert pathlib.Path(model, "model.safetensors").is_file() and outtype == "q8_0"
if "{mode}" == "breaks":
    sys.exit("ValueError: no such family")
pathlib.Path(outfile).write_bytes(b"GGUF" + config["model_type"].encode())
"""


@pytest.mark.parametrize("mode", ["works", "breaks"])
def test_gguf_goes_through_the_converter_that_is_installed(manage, tmp_path, monkeypatch, mode):
    (tmp_path / "llama.cpp").mkdir()
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "llama.cpp"))
    script = CONVERTER.format(python=sys.executable, mode=mode)
    (tmp_path / "llama.cpp" / "convert_hf_to_gguf.py").write_text(script)
    out = tmp_path / "out" / "m.gguf"
    done = manage("export", "good", "--format", "gguf", "--outtype", "q8_0", "--output", out,
                  fails=1 if mode == "breaks" else 0)  # fmt: skip
    if mode == "breaks":
        assert "convert_hf_to_gguf.py failed (ValueError: no such family)" in done.stderr
        assert list(out.parent.iterdir()) == []
    else:
        assert out.read_bytes() == b"GGUFllama"
        assert [p.name for p in out.parent.iterdir()] == ["m.gguf"]


def test_the_canary_sees_an_adapter_that_changes_something_and_keeps_the_result(manage, world):
    done = manage("canary", "good", "--json", "--max-new-tokens", "4")
    report = json.loads(done.stdout)
    assert report["ok"] and report["change"] > 0.01 and len(report["prompts"]) == 5
    kept = json.loads((world / "adapters" / "good" / "v1.0.0.canary.json").read_text())
    assert kept == report
    manage("verify", "good@v1.0.0")  # the result is beside the version, not in it


def test_the_canary_fails_for_an_adapter_that_is_sound_and_does_nothing(manage, world, tmp_path):
    manage("verify", "idle@v1.0.0")
    (tmp_path / "prompts.txt").write_text("One?\n\nTwo?\n")
    done = manage("canary", "idle", "--prompts", tmp_path / "prompts.txt",
                  "--max-new-tokens", "4", fails=1)  # fmt: skip
    assert "idle@v1.0.0 changes nothing" in done.stderr
    kept = json.loads((world / "adapters" / "idle" / "v1.0.0.canary.json").read_text())
    assert kept["ok"] is False and [p["prompt"] for p in kept["prompts"]] == ["One?", "Two?"]
