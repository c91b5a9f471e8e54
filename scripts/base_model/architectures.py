"""What the installed transformers knows, read from its source files: 20 ms, and no import of it.

Every answer is None where transformers is not installed or its source looks different.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

# as PEFT refuses them: their fast kernels read out_proj and conv1d directly
MAMBA_TYPES = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
_PAIR = re.compile(r'\(\s*"([\w.-]+)",\s*"(\w+)"')
_LINEAR = re.compile(
    r"self\.(\w+)\s*=\s*(?:\(\s*(?:[^()\n]*\n\s*){0,2}[^()\n]*?)?"  # DeepSeek: (None if … else
    r"(?:torch\.)?(?:nn\.)?(?:\w*Linear|Conv1D)\("
)
_READ = re.compile(r"self\.(\w+)\.weight(?!\.(?:dtype|device|shape|size|ndim)|\[|\w)")
# calls that make the mask of attention, and layers that carry a state from token to token
_MASK = re.compile(
    r"(?:create_\w*mask|mask_function)\((?:[^()]|\([^()]*\))*\)|mask_kwargs = \{[^}]*\}"
)
_STATE = re.compile(
    r"selective_scan|segment_sum|gated_delta|kda|[Ll]ightning|class \w*(?:Recurrent|Rwkv)"
)
# what PEFT takes for routed experts where transformers has fused them, by the layout they had
_EXPERT_NAMES = {
    "qwen2_moe": frozenset({"gate", "gate_proj", "up_proj", "down_proj"}),
    "mixtral": frozenset({"gate", "w1", "w2", "w3"}),
}


@functools.cache
def root() -> Path | None:
    """The folder of the installed transformers."""
    spec = importlib.util.find_spec("transformers")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


@functools.cache
def version() -> str:
    """The version of the installed transformers, '' without one."""
    import importlib.metadata

    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def _mapping(file: str, name: str) -> dict[str, str]:
    """One of transformers' tables {model_type: name}, {} where it is not found."""
    folder = root()
    path = folder / "models" / "auto" / file if folder else None
    if path is None or not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    block = re.search(rf"^{name}\b[^=]*= OrderedDict\((.*?)^\)", text, re.S | re.M)
    return dict(_PAIR.findall(block[1])) if block else {}


@functools.cache
def _expert_layouts() -> dict[str, str]:
    """{model_type: the layout from which transformers fuses its experts}, {} where not known."""
    folder = root()
    path = folder / "conversion_mapping.py" if folder else None
    if path is None or not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    block = re.search(r"^_MODEL_TO_CONVERSION_PATTERN = \{(.*?)^\}", text, re.S | re.M)
    return dict(re.findall(r'"(\w+)": "(\w+)"', block[1])) if block else {}


def expert_names(model_type: str) -> frozenset[str]:
    """Names that PEFT moves to the routed experts, wherever else the model has them."""
    layout = "mixtral" if model_type == "mixtral" else _expert_layouts().get(model_type, "")
    return _EXPERT_NAMES.get(layout, frozenset())


def is_known(model_type: str) -> bool | None:
    """Whether transformers has this architecture."""
    types = _mapping("auto_mappings.py", "CONFIG_MAPPING_NAMES")
    types = types or _mapping("configuration_auto.py", "CONFIG_MAPPING_NAMES")
    if not types:
        return None
    return model_type in types or model_type in _causal()


def causal_types() -> list[str]:
    """Every architecture that writes text."""
    return list(_causal())


def causal_class(model_type: str) -> str | None:
    """The class that writes text, None where the architecture has none (or nothing is known)."""
    return _causal().get(model_type)


def has_class(name: str) -> bool | None:
    """Whether any of transformers' tables names this class."""
    folder = root()
    if folder is None:
        return None
    return bool(re.search(rf'"{re.escape(name)}"', _all_tables(folder)))


@functools.cache
def _all_tables(folder: Path) -> str:
    return "".join(
        path.read_text(encoding="utf-8") for path in sorted((folder / "models/auto").glob("*.py"))
    )


def _causal() -> dict[str, str]:
    return _mapping("modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


@functools.cache
def _source(model_type: str) -> str:
    """The source of an architecture, '' where it is not found."""
    folder = root()
    if folder is None:
        return ""
    special = _mapping("auto_mappings.py", "SPECIAL_MODEL_TYPE_TO_MODULE_NAME")
    module = special.get(model_type, model_type.replace("-", "_"))
    files = sorted((folder / "models" / module).glob("modeling_*.py"))
    return "".join(path.read_text(encoding="utf-8") for path in files)


def linear_names(model_type: str) -> frozenset[str] | None:
    """The attributes that its source makes as linear layers (routers and experts are not)."""
    return frozenset(_LINEAR.findall(_source(model_type))) or None


def read_directly(model_type: str) -> frozenset[str]:
    """Linear layers whose weight the architecture reads itself: LoRA on them changes nothing.

    out_proj and x_proj only where the kernels of mamba_ssm are installed.
    """
    names = frozenset(_READ.findall(_source(model_type))) & (
        linear_names(model_type) or frozenset()
    )
    kernels = importlib.util.find_spec("mamba_ssm") is not None
    return names - {"lm_head"} - (frozenset() if kernels else {"out_proj", "x_proj"})


def attention(model_type: str, wanted: str) -> str | None:
    """`wanted` where the architecture has that attention, None for its own default."""
    flag = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}.get(wanted)
    source = _source(model_type)
    if flag and source and not re.search(rf"{flag}(?:_2)?\s*=\s*True", source):
        return None
    return wanted


def keeps_packed_rows_apart(model_type: str) -> bool | None:
    """Whether rows in one sequence do not see each other: its mask is made from the positions, and
    no layer carries a state over from one row to the next. None where nothing is known.
    """
    source = _source(model_type)
    if not source:
        return None
    masks = [call for call in _MASK.findall(source) if "attention_mask" in call]
    return any("position_ids" in call for call in masks) and not _STATE.search(source)
