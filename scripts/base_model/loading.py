"""Loads base models and tokenizers as the configuration says: one place for all commands."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

from kit import console, paths, publish

# model_type -> the linear layers that LoRA may adapt there (what PEFT finds in the architecture)
TARGET_MODULES = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "mistral": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "mamba": ["in_proj", "x_proj"],
}
# model_type -> the other modules there, which lora.modules_to_save may train as a whole
WHOLE_MODULES = {
    "llama": ["embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"],
    "mistral": ["embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"],
    "mamba": ["embeddings", "lm_head", "norm", "norm_f"],
}


def model_path(name_or_path: str) -> str:
    """A folder of this machine where there is one (relative to the work folder), else the name."""
    for candidate in (Path(name_or_path).expanduser(), paths.workdir() / name_or_path):
        if candidate.is_dir():
            return str(candidate.resolve())
    return name_or_path


def model_config(name_or_path: str) -> dict[str, Any]:
    """config.json of a model folder or of a hub model in the cache. Problem where neither is."""
    where = model_path(name_or_path)
    file = Path(where, "config.json")
    if not file.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = None
        if "/" in where and not where.startswith((".", "/")) and where.count("/") == 1:
            with contextlib.suppress(ValueError):  # no name that the hub could have
                cached = try_to_load_from_cache(where, "config.json")
        if not isinstance(cached, str):
            raise console.Problem(
                f"no model at {name_or_path} (no config.json there)",
                "download it as docs/MODEL_DOWNLOAD.md says, or correct model.model_name_or_path",
            )
        file = Path(cached)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise console.Problem(f"{file}: not JSON", "download the model again") from None


def base_identity(folder: str | os.PathLike) -> dict[str, str]:
    """What makes a base model this one: SHA-256 of config.json and of its weights' index or header.

    Cheap for any size: the weights themselves are read by `verify_model.py --hash`.
    """
    folder = Path(folder)
    identity = {"config_sha256": publish.sha256(folder / "config.json")}
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        identity["weights_sha256"] = publish.sha256(index)
    elif single.is_file():
        identity["weights_sha256"] = publish.sha256(single)
    return identity


def check_target_modules(model_type: str, wanted: list[str] | str) -> None:
    """Misuse with the right names when a target module does not exist in this architecture."""
    known = TARGET_MODULES.get(model_type)
    if known is None:
        return
    if wanted == "all-linear":
        if model_type == "mamba":
            raise console.Misuse(
                "lora.target_modules: all-linear does not work for Mamba",
                f"set it to [{', '.join(known)}]",
            )
        return
    _refuse_unknown("target_modules", model_type, wanted, [*known, "lm_head"])


def check_modules(model_type: str, lora) -> None:
    """Misuse where a `lora` section names modules that this architecture has not."""
    check_target_modules(model_type, lora.target_modules)
    if model_type in WHOLE_MODULES:
        known = [*WHOLE_MODULES[model_type], "score"]
        _refuse_unknown("modules_to_save", model_type, lora.modules_to_save or [], known)


def _refuse_unknown(key: str, model_type: str, wanted: list[str], known: list[str]) -> None:
    wrong = [name for name in wanted if name not in known]
    if wrong:
        raise console.Misuse(
            f"lora.{key}: a {model_type} model has no {', '.join(wrong)} that can be trained",
            f"choose from [{', '.join(known)}]",
        )


def load_tokenizer(model) -> Any:
    """The tokenizer of a `model` section, with its chat template, a pad token and right padding."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the laptop has no torch, on purpose
    from transformers import AutoTokenizer

    where = model_path(model.model_name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=model.model_revision)
    except (OSError, ValueError) as error:
        raise console.Problem(
            f"{model.model_name_or_path}: no tokenizer could be loaded ({first_line(error)})",
            "download tokenizer.json and tokenizer_config.json again (docs/MODEL_DOWNLOAD.md)",
        ) from None
    if model.chat_template:
        tokenizer.chat_template = _template(model.chat_template)
    if not tokenizer.chat_template:
        raise console.Problem(
            f"{model.model_name_or_path}: its tokenizer has no chat template (a base model?)",
            "use the Instruct model, or give a Jinja file in model.chat_template",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _unused_token(tokenizer)
    tokenizer.padding_side = "right"
    return tokenizer


def _template(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise console.Misuse(
            f"model.chat_template: {file} cannot be read ({why})",
            "name a Jinja file in UTF-8, or null for the tokenizer's own",
        ) from None


def _unused_token(tokenizer) -> str:
    """A pad token that is never trained as text: the family's own, else unk, else eos."""
    vocabulary = tokenizer.get_vocab()
    for token in ("<|finetune_right_pad_id|>", "<pad>", "<unk>"):
        if token in vocabulary:
            return token
    return tokenizer.eos_token


def first_line(error: Exception) -> str:
    """The first line of an error's text, for messages of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def quiet() -> None:
    """Leave out the libraries' progress bars and the warnings that are known to mean nothing."""
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # a CPU without AMX says so
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    warnings.filterwarnings("ignore", message=".*use_reentrant")


def device() -> str:
    """'cuda', 'mps' or 'cpu': the best that torch sees here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def quantization_config(quantization, skipped: list[str] | None = None) -> Any:
    """The BitsAndBytesConfig of a `quantization` section, None for full precision.

    skipped: modules that stay in full precision; None: what transformers chooses (lm_head).
    """
    if not (quantization.load_in_4bit or quantization.load_in_8bit):
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if quantization.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=quantization.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=getattr(torch, quantization.bnb_4bit_compute_dtype),
        bnb_4bit_quant_storage=getattr(torch, quantization.bnb_4bit_quant_storage),
        llm_int8_skip_modules=skipped,
    )


def load_base(model, quantization, scores: bool = False, sharded: bool = False) -> Any:
    """The base model of the two sections, quantised on loading, on this process's device.

    sharded: leave placing to FSDP, which spreads the model over the processes.
    scores: with a head of one number (`score`, new and random) instead of the vocabulary's.
    Raises Problem for a missing or broken folder. Nothing is executed from the model's folder:
    remote code stays off.
    """
    quiet()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    more = {"num_labels": 1} if scores else {}
    where = model_path(model.model_name_or_path)
    model_config(model.model_name_or_path)  # a missing model is one line, before any loading
    here = device()
    place = int(os.environ.get("LOCAL_RANK", "0")) if here == "cuda" else here
    try:
        loaded = auto.from_pretrained(
            where,
            revision=model.model_revision,
            dtype=getattr(torch, model.dtype),
            quantization_config=quantization_config(quantization, ["score"] if scores else None),
            attn_implementation=model.attn_implementation if _has_attention(where) else None,
            device_map=None if sharded else {"": place},
            **more,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise console.Problem(
            f"{model.model_name_or_path}: the model could not be loaded ({first_line(error)})",
            f"python scripts/verify_model.py {model.model_name_or_path} --hash finds a broken file",
        ) from None
    for module in loaded.modules():
        # On a CPU bitsandbytes repacks 4-bit weights at the first evaluation, which changes how
        # every later step rounds: a resumed run would differ from an unbroken one.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return loaded


def _has_attention(where: str) -> bool:
    return model_config(where).get("model_type") != "mamba"
