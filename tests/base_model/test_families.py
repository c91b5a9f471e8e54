"""Tiny models with random weights of many architectures, from the installed transformers alone.

Each is described, planned, loaded, trained for two steps, served and merged; docs/MODELS.md is
the table of what is done here.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from config import loader
from kit import console
from support import tiny
from support.model_files import LLAMA, write_model

pytestmark = [pytest.mark.remote_env, pytest.mark.slow]

FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "phi", "gpt2",
    "gpt_neox", "mamba", "mixtral", "qwen3_moe", "olmo2", "olmoe", "falcon", "starcoder2",
    "stablelm", "cohere", "granite", "smollm3", "glm4", "gpt_oss", "qwen3_5_text", "falcon_h1",
    "bloom", "mpt", "opt", "cohere2", "deepseek_v2", "deepseek_v3", "glm4_moe", "llama4_text",
    "jamba", "bamba",
)  # fmt: skip
# PEFT takes these names for the routed experts of these
EXPERTS = {"gate_proj", "up_proj", "down_proj"}
EXPERTS_BY_NAME = ("qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "glm4_moe")
# read past LoRA by Mamba's kernels or by its slow path; a router with a class of its own
DIRECT = {"mamba": {"out_proj", "dt_proj"}, "falcon_h1": {"out_proj"}, "jamba": {"dt_proj"},
          "llama4_text": {"router"}}  # fmt: skip


@dataclasses.dataclass
class Family:
    name: str
    folder: Path
    tokenizer: object


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A model of the family as a folder, with a tokenizer of the rows."""
    import torch
    from transformers import AutoModelForCausalLM

    from base_model import loading, miniature

    loading.quiet()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("families") / request.param
    texts = [message["content"] for row in tiny.rows(40) for message in row["messages"]]
    tokenizer = miniature.build_tokenizer(texts, request.param)
    model = AutoModelForCausalLM.from_config(miniature.build_config(request.param, tokenizer))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    yield Family(request.param, folder, tokenizer)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def settings(family):
    """The configuration with this model and every module that LoRA can adapt in it."""
    from base_model import description, lora_modules

    names = lora_modules.adaptable(description.read(family.folder))
    words = [f"model.model_name_or_path={family.folder}",
             f"lora.target_modules={json.dumps(names)}",
             "quantization.load_in_4bit=false", "model.dtype=float32", "lora.r=4"]  # fmt: skip
    return loader.load("training_config.yaml", words)


def linear_names(model, name: str) -> set[str]:
    """What LoRA can adapt: the names of the linear layers within the model's layers."""
    import torch
    from transformers.pytorch_utils import Conv1D

    names = {n.rpartition(".")[2] for n, m in model.named_modules()
             if isinstance(m, (torch.nn.Linear, Conv1D)) and re.search(r"\.\d+\.", n)}  # fmt: skip
    experts = EXPERTS if name in EXPERTS_BY_NAME else set()
    return names - experts - DIRECT.get(name, set())


def test_what_the_files_say_is_what_is_loaded(family, settings):
    from base_model import description, loading, lora_modules

    model = loading.load_base(settings.model, settings.quantization)
    here = description.read(family.folder)
    assert set(lora_modules.adaptable(here)) == linear_names(model, family.name)
    assert here.rows == model.get_input_embeddings().weight.shape[0]
    assert here.tied == bool(model.config.get_text_config().tie_word_embeddings)
    saved = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}.values()
    assert sum(here.dtypes().values()) == sum(tensor.numel() for tensor in saved)


def test_the_plan_has_no_alarm(family, settings):
    from base_model import readiness

    model = readiness.describe(settings)
    checks = readiness.checks(model, settings) + readiness.of_tokenizer(family.tokenizer, model)
    assert [c for c in checks if c.status in ("warn", "fail")] == []


@pytest.fixture(scope="module")
def adapter(family, settings, tmp_path_factory):
    """An adapter after two steps, saved; every lora_B of it has changed."""
    import torch
    from peft import get_peft_model

    from base_model import loading
    from training import encoding, lora

    torch.manual_seed(0)
    base = loading.load_base(settings.model, settings.quantization)
    model = get_peft_model(base, lora.lora_config(settings)).train()
    row = encoding.encode(family.tokenizer, tiny.rows(1)[0], 128)
    batch = {name: torch.tensor([ids]) for name, ids in row.items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(2):
        loss = model(**batch).loss
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    still = [n for n, p in model.named_parameters() if "lora_B" in n and not p.any()]
    assert still == [], "adapted, and no gradient came there"
    folder = tmp_path_factory.mktemp("adapter") / family.name
    model.save_pretrained(folder)
    return folder


def test_two_steps_train_every_module_that_was_named(adapter, settings):
    from adapters import weights

    modules = weights.inspect(adapter).modules
    assert {m.rpartition(".")[2] for m in modules} == set(settings.lora.target_modules)


def logits(model, tokenizer):
    import torch

    ids = tokenizer("Weather in Oslo?", return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


def test_the_adapter_is_merged_into_weights_that_answer_alike(family, settings, adapter, tmp_path):
    import torch

    from base_model import loading

    base = loading.load_base(settings.model, settings.quantization)
    model = loading.attach(base, adapter).eval()
    expected = logits(model, family.tokenizer)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    again = loading.load(tmp_path / "merged", dtype="float32").eval()
    assert torch.allclose(logits(again, family.tokenizer), expected, atol=1e-3)


def test_the_server_answers_with_it_and_without_it(family, settings, adapter):
    from base_model import loading
    from serving.engine import BASE
    from support.engine_desk import Desk

    base = loading.load_base(settings.model, settings.quantization)
    model = loading.attach(base, adapter, "a0").eval()
    desk = Desk(family.tokenizer, model)
    try:
        prompts = ([11, 12, 13, 14], [11, 12], [11, 12, 13, 14])
        names = ("a0", BASE, BASE)
        answers = [desk.answer(p, n, 4) for p, n in zip(prompts, names, strict=True)]
        desk.engine.submit(answers)
        assert set(desk.finish(answers).values()) == {"length"}
    finally:
        desk.engine.close()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "OOM"),
        (RuntimeError("CUDA error: out of memory"), "OOM"),
        (MemoryError(), "OOM"),
        (RuntimeError("CUDA error: unspecified launch failure"), "the GPU failed"),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), "could not be loaded"),
    ],
)
def test_full_memory_while_loading_is_not_called_a_broken_file(
    tmp_path, monkeypatch, error, raised
):
    import torch
    from transformers import AutoModelForCausalLM

    from base_model import loading

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    folder = write_model(tmp_path / "model", LLAMA)
    expected = torch.OutOfMemoryError if raised == "OOM" else console.Problem
    with pytest.raises(expected) as caught:
        loading.load(folder)
    assert raised == "OOM" or raised in str(caught.value)


def test_a_base_that_was_trained_with_flash_attention_is_loaded_without_it(
    tmp_path, monkeypatch, capsys
):
    """eval.py and the server load runs of machines that had flash-attn."""
    from transformers import AutoModelForCausalLM

    from base_model import loading

    asked = {}

    def note(folder, **keywords):
        asked.update(keywords)
        raise RuntimeError("enough")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", note)
    with pytest.raises(console.Problem, match="enough"):
        loading.load(write_model(tmp_path / "model", LLAMA), attention="flash_attention_2")
    assert asked["attn_implementation"] is None
    assert "flash-attn is not installed here" in capsys.readouterr().err


def test_text_rows_train_no_vision_part(tmp_path):
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, Gemma3Config

    from base_model import loading
    from training import lora

    torch.set_num_threads(1)
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    config = Gemma3Config(
        text_config=small | {"vocab_size": 320, "head_dim": 32, "num_key_value_heads": 1},
        vision_config=small | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4,
        image_token_id=300, boi_token_id=301, eoi_token_id=302,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    words = [f"model.model_name_or_path={tmp_path}", "quantization.load_in_4bit=false",
             "model.dtype=float32"]  # fmt: skip
    settings = loader.load("training_config.yaml", words)
    base = loading.load_base(settings.model, settings.quantization)
    adapted = [n for n, _ in get_peft_model(base, lora.lora_config(settings)).named_parameters()
               if "lora_A" in n]  # fmt: skip
    assert len(adapted) == 14 and not [n for n in adapted if "vision" in n]
