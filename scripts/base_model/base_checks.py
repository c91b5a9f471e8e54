"""What a base model is, as checks: architecture, custom code, pickles, quantisation, revision.

Asked by verify_model, validate, and every plan; a few milliseconds, and no package is imported.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

from base_model import architectures, hashes, locate
from base_model.description import Description
from base_model.model_folder import ModelFolder
from kit import console, paths
from kit.report import Check

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
UNQUANTISED = (
    "take the repository of the unquantised model (no GPTQ, AWQ, FP8 or int8 in its name); "
    "quantization.load_in_4bit makes 4 bits of it while loading"
)
_METHODS = {"gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8", "fbgemm_fp8": "FP8", "mxfp4": "MXFP4",
            "mlx": "MLX", "unknown": "an unnamed method"}  # fmt: skip
_PACKED = 0.1  # share of whole numbers above which they are weights and not positions


def checks(model: Description, revision: str | None = None, quantization=None) -> list[Check]:
    """All of them; `quantization`: the section that the model will be loaded with."""
    return [
        *architecture(model),
        *custom_code(model),
        *weights(model),
        *quantised(model, quantization),
        *revisions(model, revision),
    ]


def refuse_unloadable(model: Description) -> None:
    """Problem with the reason where it is not loaded: code, pickles, quantisation, architecture."""
    for part in (custom_code, weights, quantised, architecture):
        for check in part(model):
            if check.status == "fail":
                where = paths.show(model.folder)
                raise console.Problem(f"{where}: {check.name}: {check.found}", check.fix)


def architecture(model: Description) -> list[Check]:
    """Whether the installed transformers can load it as a model that writes text."""
    name, kind = "architecture", model.model_type
    if not kind:
        return [Check(name, "fail", "config.json names no model_type", "download it again")]
    known = architectures.is_known(kind)
    if known is None:
        return [Check(name, "skip", f"{kind}; transformers is not installed here")]
    if not known:
        text = f"{kind} is unknown to the installed transformers {architectures.version()}"
        newer = _newer(model)
        fix = "take a model of a known architecture; custom code is never run"
        if newer:
            fix = f"it was saved with transformers {newer}: raise the pin (requirements-remote.txt)"
        return [Check(name, "fail", text, fix)]
    causal = architectures.causal_class(kind)
    if causal is None or model.raw.get("is_encoder_decoder") is True:  # Whisper, BART
        text = f"{kind} is no architecture that writes text from text alone"
        return [Check(name, "fail", text, "take a causal language model (…ForCausalLM)")]
    classes = model.raw.get("architectures")
    saved = str(classes[0]) if isinstance(classes, list) and classes else causal
    if saved.endswith(("ForMaskedLM", "Classification", "ForRewardModel", "QuestionAnswering")):
        text = f"config.json names {saved}: a model that writes no text"
        return [Check(name, "fail", text, "take a causal language model (…ForCausalLM)")]
    return [Check(name, "ok", f"{kind} ({causal})")]


def _newer(model: Description) -> str | None:
    """The version of transformers that saved it, where it is later than the installed one."""
    saved = str(model.raw.get("transformers_version") or "")

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")[:2] if part.isdigit()]

    return saved if numbers(saved) > numbers(architectures.version()) else None


def custom_code(model: Description) -> list[Check]:
    """Python files that the folder wants to have run. They never are."""
    maps = [model.raw.get("auto_map"), model.tokenizer.get("auto_map")]
    classes = sorted({c for c in _texts(maps) if "." in c})
    if not classes:
        return []
    own = [c for c in classes if not architectures.has_class(c.rpartition(".")[2])]
    if not own and architectures.is_known(model.model_type) is not False:
        text = f"auto_map names {classes[0]}: not run, transformers has its own"
        return [Check("custom code", "ok", text)]
    text = f"auto_map names {', '.join((own or classes)[:3])}: code of the folder is never run"
    fix = "take a repository whose architecture transformers has itself (one without auto_map)"
    return [Check("custom code", "fail", text, fix)]


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in _texts(part)]


def weights(model: Description) -> list[Check]:
    """Safetensors, or the reason why there is nothing to load."""
    pickles = [p.name for pattern in PICKLES for p in sorted(model.folder.glob(pattern))]
    for file, what in model.broken.items():
        fix = f"python scripts/verify_model.py {paths.show(model.folder)} says how to get it again"
        return [Check("weights", "fail", f"{file}: {what}", fix)]
    if model.tensors:
        return [Check("weights", "ok", amount(model))] if not _missing(model) else [_partly(model)]
    if pickles:
        text = f"{pickles[0]}: weights as pickles only, which can run code; safetensors are loaded"
        fix = "take a revision of the model in safetensors (the hub's refs/pr/N often has one)"
        return [Check("weights", "fail", text, fix)]
    if importlib.util.find_spec("torch") is None:  # a laptop that plans for its host
        return [Check("weights", "skip", "not on this machine: the host has them")]
    fix = f"python scripts/verify_model.py {paths.show(model.folder)} says what is missing"
    return [Check("weights", "fail", "no weights in safetensors there", fix)]


def _missing(model: Description) -> int:
    return len(model.names - set(model.tensors))


def _partly(model: Description) -> Check:
    fix = f"python scripts/verify_model.py {paths.show(model.folder)} names the missing files"
    return Check("weights", "fail", f"{_missing(model)} tensors of its index are missing", fix)


def misfits(model: Description) -> str:
    """Where config.json and the headers of the weights disagree, '' where they do not."""
    checks = [_layers_misfit, _tied_misfit]
    if quantisation(model) is None:  # packed weights have shapes of their own
        checks[1:1] = [_embedding_misfit, _width_misfit]
    return next((text for check in checks if (text := check(model))), "")


def _layers_misfit(model: Description) -> str:
    layers, wanted = model.layers, model.config.get("num_hidden_layers")
    if not layers or not wanted:
        return ""
    more = model.config.get("num_nextn_predict_layers") or 0  # DeepSeek's extra layers at the end
    if len(layers) in (wanted, wanted + more) and layers == set(range(len(layers))):
        return ""
    return f"num_hidden_layers {wanted}, {len(layers)} in the weights"


def _embedding_misfit(model: Description) -> str:
    config, embedding = model.config, model.saved_embedding
    if "word_embed_proj_dim" in config or "embedding_size" in config:  # OPT, Nemotron-H: narrower
        return ""
    shape = (config.get("vocab_size"), config.get("hidden_size"))
    if model.model_type.startswith("mllama") and shape[0]:
        shape = (shape[0] + 8, shape[1])  # tokens of pictures, which it never writes
    if not embedding or None in shape or embedding == shape:
        return ""
    return f"vocab_size x hidden_size {shape}, {embedding} in the weights"


def _width_misfit(model: Description) -> str:
    inner = model.config.get("intermediate_size")
    inputs = {layer.inputs for layer in model.linears if layer.module.endswith(".mlp.down_proj")}
    if not inner or not inputs or inner in inputs:
        return ""
    return f"intermediate_size {inner}, {min(inputs)} in the weights"


def _tied_misfit(model: Description) -> str:
    if not model.saved_embedding or not model.layers:
        return ""
    heads = any("head" in name or "embed_out" in name for name in model.names)
    tied = model.config.get("tie_word_embeddings", True)
    return "" if heads or tied else "tie_word_embeddings false and no lm_head.weight"


def amount(model: Description) -> str:
    """'8.03 B parameters, BF16': counted from the headers."""
    counts = model.dtypes()
    packed = quantisation(model) is not None
    count = sum(counts.values())
    types = ", ".join(list(counts)[:3])
    return f"{count / 1e9:.2f} B values, {types}" + (" (quantised)" if packed else "")


def quantisation(model: Description) -> tuple[str, int] | None:
    """(method, bits) of a checkpoint that is quantised already, None for one that is not."""
    values = model.raw.get("quantization_config") or model.raw.get("compression_config")
    values = values or model.config.get("quantization_config") or model.raw.get("quantization")
    if isinstance(values, dict):
        method = str(values.get("quant_method") or "").lower()
        if values.get("load_in_4bit") or values.get("load_in_8bit") or method == "bitsandbytes":
            return "bitsandbytes", 4 if values.get("load_in_4bit") else 8
        bits = values.get("bits") or values.get("w_bit") or (8 if "fp8" in method else 0)
        method = method or ("mlx" if "group_size" in values else "unknown")
        return method, int(bits) if str(bits).isdigit() else 0
    return _quantised_tensors(model)


def _quantised_tensors(model: Description) -> tuple[str, int] | None:
    """What the headers say where config.json says nothing."""
    ends = {name.rpartition(".")[2] for name in model.names}
    if ends & {"qweight", "qzeros"}:
        return "gptq", 4
    if "absmax" in ends:
        return "bitsandbytes", 4
    if "SCB" in ends:
        return "bitsandbytes", 8
    counts = model.dtypes()
    whole = [
        (dtype, math.prod(shape))
        for dtype, shape in model.tensors.values()
        if dtype[0] in "IU" and shape[:2] != (1, 1)
    ]  # not GPT-NeoX's masks
    if sum(count for _, count in whole) > _PACKED * sum(counts.values()):
        return f"packed weights ({max(whole, key=lambda pair: pair[1])[0]})", 0
    return ("fp8", 8) if any(dtype.startswith("F8") for dtype in counts) else None


def quantised(model: Description, quantization=None) -> list[Check]:
    """A checkpoint that is quantised already, against what the configuration asks for."""
    kind = quantisation(model)
    if kind is None:
        return []
    method, bits = kind
    name = "quantised"
    if method != "bitsandbytes":
        label = _METHODS.get(method, method)
        text = f"{label}{f' of {bits} bits' if bits else ''}: not trained or merged by this stack"
        return [Check(name, "fail", text, UNQUANTISED)]
    text = f"bitsandbytes, {bits} bits, as it was saved"
    if quantization is None:
        return [Check(name, "ok", f"{text}; quantization cannot change that")]
    asked = 4 if quantization.load_in_4bit else 8 if quantization.load_in_8bit else 0
    if asked == bits:
        return [Check(name, "ok", f"{text}: its own settings are used")]
    fix = f"set quantization.load_in_{bits}bit: true (the other false), or {UNQUANTISED}"
    return [Check(name, "fail", f"{text}; the configuration asks for {asked or 16} bits", fix)]


def commit(folder: Path) -> str | None:
    """The revision that lies there, by the cache or the hub's download notes; None: not known."""
    commits = hashes.commits(folder)
    return commits.pop() if len(commits) == 1 else None


def revisions(model: Description, wanted: str | None) -> list[Check]:
    """model.model_revision against what lies there; nothing where none is asked for."""
    if not wanted:
        return []
    cached = locate.snapshot(model.folder)
    repository = cached[0] if cached else f"ORG/{model.folder.name}"
    again = ModelFolder(model.folder, model.folder.name, {"repo": repository}).again
    fix = f"{again} --revision {wanted}, or correct model.model_revision"
    return [revision(model.folder, wanted, fix)]


def revision(folder: Path, wanted: str, fix: str) -> Check:
    """The revision that is asked for against what is in the folder."""
    name, commits = "revision", hashes.commits(folder)
    if len(commits) > 1:
        listed = ", ".join(sorted(c[:12] for c in commits))
        return Check(name, "fail", f"files of {len(commits)} revisions: {listed}", fix)
    if not commits:
        return Check(name, "warn", f"{wanted[:12]} is asked for, what lies there is unknown", fix)
    commit = next(iter(commits))
    fits = locate.fits(folder, commit, wanted)
    if fits:
        return Check(name, "ok", commit)
    if fits is False:
        return Check(name, "fail", f"{commit[:12]} lies there, {wanted[:12]} is asked for", fix)
    text = f"{commit[:12]} lies there; whether that is {wanted} is unknown"
    return Check(name, "warn", text, fix)
