"""What a LoRA can have that decides how it may be used: FEATURES is the one table.

It was measured with PEFT 0.21.2, and tests/adapters/test_adapters_effect.py measures it again. A
LoRA with none of these features can be used in every way. adapters/effect.py gives the answers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from adapters.weights import Adapter

TOGETHER, IN_TURNS, ALONE = "together", "in turns", "alone"  # from the most company to the least
CONVERT = (
    "convert it where it was trained: model.save_pretrained(DIR, "
    "path_initial_model_for_weight_conversion=START) writes a plain LoRA for the untouched base"
)
QUANTISED = (
    "where it was trained model.unload().save_pretrained(DIR) saves the base that LoftQ quantised; "
    "in adapter_config.json name DIR as base_model_name_or_path and set init_lora_weights to true"
)
PLAIN = "train it again as a plain LoRA"
_DATA = "it is right only on the base that its training changed, by data that it does not hold"
_RANDOM = "each load draws another base, so what was trained does not come back"

STARTS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica", "olora", "pissa",
          "corda", "loftq", "lora_ga")  # fmt: skip
_FAST_PISSA = re.compile(r"pissa_niter_\d+")
_EXPERTS = re.compile(r"(^|\.)(experts|shared_experts?|shared_expert_gate|router|gate)(\.|$)")
KNOWN_SETTINGS = frozenset((
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping",
    "base_model_name_or_path", "bias", "corda_config", "enable_lora", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "merge_weights", "modules_to_save", "monteclora_config", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "target_parameters", "task_type", "trainable_token_indices", "use_bdlora",
    "use_dora", "use_qalora", "use_rslora", "velora_config",
))  # fmt: skip


# --- what an adapter can have -----------------------------------------------------------------


def _start(adapter: Adapter) -> str:
    """init_lora_weights in lower case; PEFT begins with 'true'."""
    return str(adapter.config.get("init_lora_weights", True)).lower()


def _starts_as(name: str) -> Callable[[Adapter], bool]:
    return lambda adapter: _start(adapter) == name


def _set(key: str) -> Callable[[Adapter], bool]:
    """Whether a key of the configuration is set to anything but null, false or empty."""
    return lambda adapter: bool(adapter.config.get(key))


def _fast_pissa(adapter: Adapter) -> bool:
    return bool(_FAST_PISSA.fullmatch(_start(adapter)))


def _unknown_start(adapter: Adapter) -> str:
    start = _start(adapter)
    return "" if start in STARTS or _fast_pissa(adapter) else start


def _unknown_settings(adapter: Adapter) -> str:
    """Settings of a later PEFT that are switched on; numbers alone mean nothing."""
    config = adapter.config
    names = (
        k
        for k in config
        if k not in KNOWN_SETTINGS and isinstance(config[k], str | bool | list | dict)
    )
    return ", ".join(sorted(name for name in names if config[name]))


def _kept_apart(adapter: Adapter, tensor: str) -> bool:
    """Whether a whole tensor belongs to modules_to_save: PEFT keeps those next to the base's.

    PEFT compares ends of names: `norm` means `input_layernorm`, too.
    """
    return any(f"{name}." in tensor for name in adapter.config.get("modules_to_save") or [])


def _biases(adapter: Adapter) -> bool:
    names = [t for t in adapter.full if t.endswith(".bias") and not _kept_apart(adapter, t)]
    return adapter.config.get("bias") not in (None, "none") or bool(names)


def _tokens(adapter: Adapter) -> bool:
    given = bool(adapter.config.get("trainable_token_indices"))
    return given or any("trainable_tokens" in tensor for tensor in adapter.full)


def _whole_tensors(adapter: Adapter) -> bool:
    """Resized or trained embeddings, which PEFT writes over the base's own."""
    others = (t for t in adapter.full if not t.endswith(".bias") and "trainable_tokens" not in t)
    return any(not _kept_apart(adapter, tensor) for tensor in others)


def _lora_biases(adapter: Adapter) -> bool:
    parts = (part for parts in adapter.modules.values() for part in parts)
    return bool(adapter.config.get("lora_bias")) or any(part.endswith(".bias") for part in parts)


def _expert_layers(adapter: Adapter) -> bool:
    return any(_EXPERTS.search(module) for module in adapter.modules)


@dataclasses.dataclass(frozen=True)
class Feature:
    """Something that an adapter has, and what follows.

    `presence(adapter)`: whether it has it; a text names what. `changes_base`: PEFT changes
    weights of the base on loading, and switching the adapter off does not bring them back.
    `company`: whether rows of other adapters (and of the base) may share a batch with it.
    `full_precision`: it does not load on a base in 4 or 8 bits. `load`, `serve`, `merge`: why
    that cannot be done at all. `vllm`: whether vLLM serves it.
    """

    name: str
    presence: Callable[[Adapter], bool | str]
    changes_base: bool = False
    company: str = TOGETHER
    full_precision: bool = False
    load: str = ""
    serve: str = ""
    merge: str = ""
    vllm: bool = False
    remedy: str = PLAIN  # for `load`


FEATURES = (
    Feature("PiSSA", _starts_as("pissa"), changes_base=True, company=ALONE, full_precision=True),
    Feature("PiSSA by a random SVD", _fast_pissa, load=_RANDOM,
            remedy=CONVERT),
    Feature("OLoRA", _starts_as("olora"), changes_base=True, company=ALONE),
    Feature("KaSA", _set("kasa_config"), changes_base=True, company=ALONE, full_precision=True),
    Feature("CorDA", _starts_as("corda"), load=_DATA, remedy=CONVERT),
    Feature("LoRA-GA", _starts_as("lora_ga"), load=_DATA, remedy=CONVERT),
    Feature("LoftQ", _starts_as("loftq"), load="it is right only on a base that LoftQ quantised",
            remedy=QUANTISED),
    Feature("MiCA", _starts_as("mica"), full_precision=True, vllm=True),
    Feature("an orthogonal start", _starts_as("orthogonal"), full_precision=True, vllm=True),
    Feature("init_lora_weights", _unknown_start, load="PEFT here does not know that start"),
    Feature("unknown settings", _unknown_settings, load="PEFT here would ignore them"),
    Feature("layer_replication", _set("layer_replication"), changes_base=True, company=ALONE,
            merge="the base's layers would be repeated in the files"),
    Feature("trained biases", _biases, changes_base=True, company=ALONE),
    Feature("whole embeddings", _whole_tensors, changes_base=True, company=ALONE),
    Feature("trained tokens", _tokens, company=ALONE),
    Feature("modules_to_save", _set("modules_to_save"), company=IN_TURNS),
    Feature("target_parameters", _set("target_parameters"), company=IN_TURNS),
    # tokens of all rows come to an expert in one list: which row each is of is lost
    Feature("layers of experts", _expert_layers, company=IN_TURNS, vllm=True),
    Feature("DoRA", _set("use_dora"), company=IN_TURNS),
    Feature("lora_bias", _lora_biases),
    Feature("aLoRA", _set("alora_invocation_tokens"), serve="it acts after certain tokens only",
            merge="it acts after certain tokens only"),
    Feature("Arrow", _set("arrow_config"), load="it is a router over other adapters"),
    Feature("MonteCLoRA", _set("monteclora_config"), load="its weights are drawn at random"),
    Feature("QALoRA", _set("use_qalora")),
    Feature("VeLoRA", _set("velora_config")),
    Feature("block-diagonal LoRA", _set("use_bdlora")),
    # vLLM scales every module by the one lora_alpha / r of the configuration
    Feature("rank_pattern", _set("rank_pattern")),
    Feature("alpha_pattern", _set("alpha_pattern")),
)  # fmt: skip
