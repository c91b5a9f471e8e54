"""Loads base models and adapters: one place for all commands.

Nothing of a model's folder is executed: custom code is never trusted, weights are safetensors.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from base_model import (
    architectures,
    base_checks,
    description,
    gpu_driver,
    locate,
    random_weights,
    safetensors_header,
)
from base_model.gpu_errors import gpu_is_lost, lost_gpu, memory_is_full
from kit import console, paths
from kit.moving_line import MovingLine

_PAIR = re.compile(r"\.lora_(?:embedding_)?A(?:\.weight)?\Z")


def quiet() -> None:
    """Hide the libraries' progress bars and the warnings that are known to mean nothing."""
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # a CPU without AMX says so
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    warnings.filterwarnings("ignore", message=".*use_reentrant")


def device() -> str:
    """'cuda', 'mps' or 'cpu': the best that torch sees here. Problem where the driver hangs."""
    gpu_driver.require_answer()
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    _warn_of_unseen_gpu()
    return "cpu"


@functools.cache
def _warn_of_unseen_gpu() -> None:
    """Say once that the CPU computes although this machine has an NVIDIA driver."""
    if problem := gpu_driver.unseen():
        console.warn(f"the CPU is used: {problem}")


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

    sharded: leave placing to FSDP, which spreads the model over the processes. In full precision
    the first process of each machine alone reads it; in 4 bits each process loads it whole.
    scores: with a head of one number (`score`, new and random) instead of the vocabulary's.
    Raises Problem for a missing or broken folder.
    """
    folder = locate.require(model.model_name_or_path, model.model_revision)
    place: Any = device()
    if place == "cuda":
        place = int(os.environ.get("LOCAL_RANK", "0"))
    kind = str(description.read_config(folder).get("model_type", ""))
    once = sharded and not (quantization.load_in_4bit or quantization.load_in_8bit)
    with read_by_one_process() if once else contextlib.nullcontext():
        return load(
            folder,
            dtype=model.dtype,
            device_map=None if sharded else {"": place},
            quantization=quantization,
            attention=architectures.attention(kind, model.attn_implementation),
            scores=scores,
        )


@contextlib.contextmanager
def read_by_one_process() -> Iterator[None]:
    """Let transformers read weights on the first process of a machine alone, for FSDP.

    It asks two variables for that; fsdp_config.cpu_ram_efficient_loading sets one of them, and only
    after the model was loaded. FSDP then sends each process its part.
    """
    names = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "true"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _shown(text: str) -> contextlib.AbstractContextManager:
    """A MovingLine, in the first of several processes."""
    first = os.environ.get("RANK", "0") == "0"
    return MovingLine(text) if first else contextlib.nullcontext()


def load(
    folder: Path,
    *,
    dtype: str | None = None,
    device_map: Any = None,
    quantization: Any = None,
    attention: str | None = None,
    scores: bool = False,
    remedy: str | None = None,
) -> Any:
    """The model of a folder. `dtype`: default that of its files; `quantization`: a section.

    Raises Problem where it must not or cannot be loaded, torch.OutOfMemoryError where memory is
    full, whichever library says so.
    """
    base_checks.refuse_unloadable(description.read(folder))
    attention = _installed(attention)
    quiet()
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    skipped = ["score"] if scores else None
    try:
        with _shown(f"loading {folder.name}"):
            model = auto.from_pretrained(
                folder,
                dtype=getattr(torch, dtype) if dtype else "auto",
                device_map=device_map,
                quantization_config=quantization and quantization_config(quantization, skipped),
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                **({"num_labels": 1} if scores else {}),
            )
    except Exception as error:  # an odd config.json makes the model's own code fail anywhere
        refuse_gpu_errors(error)
        fix = f"python scripts/verify_model.py {paths.show(folder)} --hash looks for a broken file"
        what = f"the model could not be loaded ({console.first_line(error)})"
        raise console.Problem(f"{paths.show(folder)}: {what}", remedy or fix) from None
    if random_weights.is_random(folder) and not any(p.is_meta for p in model.parameters()):
        random_weights.draw(model)
    keep_4bit_weights_as_they_are(model)
    return model


def _installed(attention: str | None) -> str | None:
    """The attention, or None where flash-attn is missing: a run of another machine may name it.

    Trainers refuse that before they load (setting_checks.packages).
    """
    if attention != "flash_attention_2" or importlib.util.find_spec("flash_attn"):
        return attention
    console.warn("flash-attn is not installed here: torch's own attention computes the same")
    return None


def refuse_gpu_errors(error: Exception) -> None:
    """Raise torch.OutOfMemoryError for full memory, a Problem for a lost GPU: no file is broken."""
    import torch

    if memory_is_full(error):
        raise torch.OutOfMemoryError(console.first_line(error)) from None
    if gpu_is_lost(error):
        raise lost_gpu(error) from None


def keep_4bit_weights_as_they_are(model: Any) -> None:
    """On a CPU bitsandbytes repacks 4-bit weights at the first evaluation, which changes how every
    later step rounds: a resumed run would differ from an unbroken one.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def attach(
    model, adapter: str | os.PathLike, name: str = "default", trainable: bool = False
) -> Any:
    """The model with one more adapter on it, as a PeftModel.

    Problem where the adapter does not fit the model, torch.OutOfMemoryError where memory is full.
    """
    from peft import PeftModel

    adapter = Path(adapter)
    if not (adapter / locate.ADAPTER_WEIGHTS).is_file():
        text = f"{paths.show(adapter)}: no {locate.ADAPTER_WEIGHTS}"
        raise console.Problem(text, "restore that file")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if hasattr(model, "peft_config"):
                loaded = model.load_adapter(str(adapter), adapter_name=name, is_trainable=trainable)
                missing = any(f".{name}." in f"{key}." for key in loaded.missing_keys)
            else:
                model = PeftModel.from_pretrained(
                    model, str(adapter), adapter_name=name, is_trainable=trainable
                )
                missing = any("missing adapter keys" in str(w.message) for w in caught)
    except Exception as error:  # PEFT raises what its layers raise
        refuse_gpu_errors(error)
        why = console.first_line(error)
        raise console.Problem(
            f"{paths.show(adapter)}: the adapter does not fit the base model ({why})",
            "give the base model that it was trained on",
        ) from None
    _refuse_other_names(model, adapter, name, missing)
    return model


def _refuse_other_names(model, adapter: Path, name: str, missing: bool) -> None:
    """Problem where layers of the model got no weights, or weights of the file went nowhere.

    PEFT warns of the one and is silent about the other: such an adapter changes nothing.
    """
    names = safetensors_header.read(adapter / locate.ADAPTER_WEIGHTS)
    pairs = [key for key in names if _PAIR.search(key)]
    own = re.compile(rf"\.lora_(?:embedding_)?A\.{re.escape(name)}(?:\.|\Z)")
    layers = sum(bool(own.search(key)) for key in model.state_dict())
    fused = any("experts" in key for key in pairs)  # whose pairs are put together on loading
    if missing or (len(pairs) > layers and not fused):
        raise console.Problem(
            f"{paths.show(adapter)}: the adapter does not fit the base model: its {len(pairs)} "
            f"layers ({pairs[0].partition('.lora_')[0]} …) are not those that PEFT adapts there",
            "give the base model that it was trained on, with the transformers of that time; "
            "layers_to_transform and target_modules must be those of its training",
        )
