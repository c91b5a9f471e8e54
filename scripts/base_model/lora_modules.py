"""Which modules of a base model LoRA can adapt or train whole, from the model's own files.

The names come from the headers of the weights, filtered by what the source of transformers makes
as a linear layer; on a machine without the weights, from that source alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from base_model import architectures, description
from base_model.description import Description
from kit import console
from kit.report import Check

# what a text model always has, saved or not
HEADS = ("lm_head", "score")
_NORM = re.compile(r"norm|(?:^|[_.])ln(?:[_\d.]|$)|layernorm", re.I)


def adaptable(model: Description) -> list[str] | None:
    """Names of the linear layers that lora.target_modules may list; None where nothing is known."""
    source = _source_names(model)
    saved = list(dict.fromkeys(layer.name for layer in model.linears))
    if not saved:  # without shards the index still tells the names
        modules = [n.removesuffix(".weight") for n in sorted(model.names)
                   if n.endswith(".weight") and description.is_adaptable(n)]  # fmt: skip
        saved = [n for n in dict.fromkeys(m.rpartition(".")[2] for m in modules)
                 if not _NORM.search(n)]  # fmt: skip
    if not saved:
        return sorted((source or set()) - _left_out(model) - set(HEADS)) or None
    named = [n for n in saved if source is None or n in source] or saved
    return [n for n in named if n not in _left_out(model)]


def _types(model: Description) -> set[str]:
    """The model_type of config.json and that of its text part."""
    types = {model.model_type, str(model.config.get("model_type", ""))}
    part = model.raw.get("text_config")
    if isinstance(part, dict):
        types.add(str(part.get("model_type", "")))
    return types - {""}


def _source_names(model: Description) -> frozenset[str] | None:
    """What transformers' source of this architecture makes as linear layers."""
    sets = [names for t in _types(model) if (names := architectures.linear_names(t))]
    return frozenset().union(*sets) if sets else None


def _left_out(model: Description) -> set[str]:
    """Linear layers that must not be adapted.

    Their weight is read directly, which passes LoRA by, or PEFT takes their name for the routed
    experts, which it then cannot adapt with dropout.
    """
    names: set[str] = set()
    for kind in _types(model):
        names |= architectures.read_directly(kind) | architectures.expert_names(kind)
    mamba = model.model_type in architectures.MAMBA_TYPES
    return names | ({"out_proj", "conv1d", "dt_proj"} if mamba else set())


def matches(wanted: Iterable[str], module: str) -> bool:
    """Whether a list of target modules names this module, by PEFT's rule."""
    return any(module == name or module.endswith(f".{name}") for name in wanted)


def check(model: Description, lora) -> None:
    """Misuse with the right names where a `lora` section names modules that are not there."""
    known = adaptable(model)
    if known is None:
        return
    if lora.target_modules == "all-linear":
        experts = any(map(architectures.expert_names, _types(model)))
        if experts or model.model_type in architectures.MAMBA_TYPES:
            raise console.Misuse(
                f"lora.target_modules: all-linear does not work for {model.model_type}",
                f"set it to [{', '.join(known)}]",
            )
    else:
        _refuse(model, "target_modules", lora.target_modules, known, "lm_head")
    if lora.modules_to_save:
        whole = _all_modules(model) or known
        _refuse(model, "modules_to_save", lora.modules_to_save, whole, *HEADS)


def _refuse(model: Description, key: str, wanted, known: list[str], *more: str) -> None:
    modules = [n.rpartition(".")[0] for n in model.names if description.is_adaptable(n)]
    wrong = [n for n in wanted if n.rpartition(".")[2] not in (*known, *more, *_embeddings(model))]
    if modules:
        dotted = [n for n in wanted if "." in n and n not in wrong]
        wrong += [n for n in dotted if not any(matches([n], module) for module in modules)]
    if wrong:
        reasons = "".join(_reason(model, name) for name in wrong[:1])
        raise console.Misuse(
            f"lora.{key}: a {model.model_type} model has no {', '.join(wrong)} that can be trained"
            f"{reasons}",
            f"choose from [{', '.join(dict.fromkeys([*known, *more]))}]",
        )


def _reason(model: Description, name: str) -> str:
    """Where the name does occur."""
    own = [n for n in model.names if matches([name], n.removesuffix(".weight"))]
    if own and all(map(description.is_expert, own)):
        return " (only in its routed experts, which transformers keeps as one parameter)"
    if own and all(map(description.is_other_sense, own)):
        return " (only in its vision or audio part)"
    last = name.rpartition(".")[2]
    if any(last in architectures.expert_names(kind) for kind in _types(model)):
        return " (PEFT takes that name for the routed experts)"
    if any(last in architectures.read_directly(kind) for kind in _types(model)):
        return " (its weight is read directly, past LoRA)"
    return ""


def _embeddings(model: Description) -> set[str]:
    """Embedding modules, which LoRA can adapt as well."""
    outside = [n.removesuffix(".weight") for n in model.names if n.endswith(".weight")
               and not description.is_adaptable(n)]  # fmt: skip
    return {m.rpartition(".")[2] for m in outside if re.search(r"emb|wte", m.rpartition(".")[2])}


def _all_modules(model: Description) -> list[str]:
    """Every module name that holds a weight: what modules_to_save may list."""
    parts: dict[str, None] = {}
    for name in sorted(model.names):
        if description.is_expert(name) or description.is_other_sense(name):
            continue
        parts |= {p: None for p in name.split(".")[1:-1] if not p.isdigit()}
        parts |= {name.split(".")[-2]: None} if name.count(".") else {}
    return list(parts)


def _of_other_senses(model: Description, lora) -> int:
    """How many layers of a vision or audio part the names match too."""
    if lora.target_modules == "all-linear":
        wanted = {n.rpartition(".")[2] for n in _source_names(model) or ()}
    else:
        wanted = lora.target_modules
    modules = (n.removesuffix(".weight") for n in model.names if n.endswith(".weight"))
    return sum(description.is_other_sense(f"{m}.") and matches(wanted, m) for m in modules)


def exclude_modules(model: Description, lora) -> str | None:
    """PEFT's exclude_modules: text rows train no vision or audio part, and a layer without a
    gradient stops training on several GPUs. None where the names match none."""
    return rf"(?:.*\.)?{description.OTHER_SENSES}\..*" if _of_other_senses(model, lora) else None


def checks(model: Description, lora) -> list[Check]:
    """How many layers the adapter gets."""
    if lora.target_modules == "all-linear" or not model.tensors:
        return []
    count = sum(matches(lora.target_modules, layer.module) for layer in model.linears)
    other = _of_other_senses(model, lora)
    text = f"{count} linear layers of {model.model_type}"
    if other:
        text += f"; {other} of the vision or audio part, which text never trains, are left out"
    return [Check("target modules", "ok", text)]
