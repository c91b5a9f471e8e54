"""What a server serves: one base model, versions of adapters on it, and their names."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adapters import effect as effects
from adapters import load, names, verification, version_store, weights
from base_model import loading, locate, readiness, tokenizer_checks
from base_model import tokenizer as tokenizers
from kit import console, paths
from serving.engine import BASE

QLORA = {  # for a version whose training is not known
    "load_in_4bit": False, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
}  # fmt: skip


@dataclasses.dataclass(eq=False)
class Served:
    """One name of /v1/models. The tokenizer is there once the model is loaded."""

    id: str
    adapter: str  # PEFT's name for it, BASE for the base alone
    created: int
    parent: str | None  # the base's id, for an adapter
    fingerprint: str
    version: version_store.Version | None = None
    effect: effects.Effect | None = None  # what the adapter does to the base
    base: Path | None = None  # the folder of an adapter's base
    tokenizer: Any = None
    ends: frozenset[int] = frozenset()
    vocabulary: int = 0
    files: Any = None  # of a version that came later: sizes and times as it was verified


@dataclasses.dataclass
class BaseOptions:
    """How the base is loaded."""

    device: str | None = None
    dtype: str | None = None
    load_in_4bit: bool | None = None  # None: as the first version was trained
    any_base: bool = False


class Catalog:
    """The base at `folder` (None: nothing is served) and `served`: the base and its adapters."""

    def __init__(self, folder: Path | None, served: list[Served], options: BaseOptions):
        self.folder, self.served, self.options = folder, served, options

    @property
    def mixed(self) -> bool:
        """Whether rows of several adapters may share a batch; else they take turns."""
        companies = (served.effect.company for served in self.served if served.effect)
        return effects.least_company(companies) == effects.TOGETHER

    def check_effects(self) -> None:
        """Problem where an adapter cannot be served, or not beside the others."""
        adapters = {served.id: served.effect for served in self.served if served.effect}
        quantized = self.quantization["load_in_4bit"] or self.quantization["load_in_8bit"]
        for reference, effect in adapters.items():
            effect.check_serve(reference, quantized)
        effects.check_company(adapters)

    @property
    def quantization(self) -> dict[str, Any]:
        """The keys of a `quantization` section that the base is loaded with.

        As the first version was trained (in 4 bits, for example): eval.py measured it so.
        """
        wanted = self.options.load_in_4bit
        cards = [s.version.card["config"] for s in self.served if s.version]
        trained = (cards[0].get("quantization") or {}) if cards else {}
        chosen = QLORA | {key: trained[key] for key in QLORA if key in trained}
        return (
            chosen if wanted is None else chosen | {"load_in_4bit": wanted, "load_in_8bit": False}
        )

    def find(self, name: str) -> Served | None:
        """The model of that id, of its last part, or that a name@range means among the served."""
        for served in self.served:
            if name in (served.id, served.id.rpartition("/")[2], f"models/{served.id}"):
                return served
        try:
            wanted, version = names.split(name)
            versions = {s.version.number: s for s in self.served
                     if s.version and s.version.name == wanted}  # fmt: skip
            return versions[names.matches(version, list(versions))[-1]]
        except (console.Problem, IndexError):
            return None

    def nearest(self, name: str) -> str:
        """What to ask for instead of an unknown name, in words."""
        ids = [served.id for served in self.served]
        if not ids:
            return "no model is served: start the server with --checkpoint NAME@VERSION"
        similar = difflib.get_close_matches(name[: names.LONGEST], ids, 1, 0.5)
        hint = f"did you mean {similar[0]}? " if similar else ""
        return f"{hint}served: {', '.join(ids)}"


def choose(references: list[str], base: str | None) -> list[version_store.Version]:
    """The versions to serve: NAME@VERSION or a version's folder each; Misuse for none.

    Without references and base: the latest version, where there is only one adapter.
    """
    root = paths.folder("adapters")
    if not references and not base:
        references = version_store.all_names(root)
        if len(references) != 1:
            remedy = f"there are: {', '.join(references)}" if references else "register a run first"
            raise console.Misuse("which adapter? give --checkpoint NAME@VERSION", remedy)
    versions = [_version(root, reference) for reference in references]
    return list({version.reference: version for version in versions}.values())


def _version(root: Path, reference: str) -> version_store.Version:
    folder = Path(reference)
    if "/" not in reference or not folder.is_dir():
        return version_store.resolve(root, reference)
    number = names.number(folder.resolve().name)
    if number is None:
        raise console.Misuse(
            f"{reference} is not a version's folder (adapters/NAME/vX.Y.Z)",
            f"scripts/checkpoint_manager.py register {reference} --name NAME makes one",
        )
    folder = folder.resolve()
    return version_store.Version(folder.parent.name, number, folder)


def check(versions: list[version_store.Version], base: str | None, options: BaseOptions) -> Catalog:
    """Verify every file of every version and that all have the same base; nothing is loaded.

    Needs no torch. Difference for a tampered file, or for an adapter of another base.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder: Path | None = None
    adapters: list[Served] = []
    for i, version in enumerate(versions):
        made = verified(version, base or folder, options, f"a{i}")
        folder = made.base
        adapters.append(made)
    Catalog(folder, adapters, options).check_effects()
    if any(served.effect and served.effect.base_changes for served in adapters):
        return Catalog(folder, adapters, options)  # it is the only one; the base is not served
    if base and not versions:
        folder = locate.of_card({"name": base}, base)
    if folder is None:
        return Catalog(None, [], options)
    card_name = versions[0].card["base"]["name"] if versions else str(folder)
    own = card_name.removeprefix("models/") if versions else folder.name
    stamp = int((folder / "config.json").stat().st_mtime)
    plain = Served(own, BASE, stamp, None, _fingerprint([own, vars(options)]))
    for served in adapters:
        served.parent = own
    return Catalog(folder, [*adapters, plain], options)


def verified(
    version: version_store.Version, base: str | os.PathLike | None, options: BaseOptions, name: str
) -> Served:
    """A version as it will be served under PEFT's `name`, every file of it verified.

    base: where its base lies; None: at the place of its card. Difference for what was changed.
    """
    card = version.card
    if version.retired:
        console.warn(f"{version.reference} is retired: {version.retired['reason']}")
    verification.check_identity(version, card)
    verification.check_files(version.folder, card)
    adapter = verification.check_contents(version.folder, card)
    folder = load.base_of(version, base, options.any_base)
    weights.check_shapes(adapter, folder)
    identity = [version.reference, card["files"][weights.FILE]["sha256"], vars(options)]
    return Served(version.reference, name, _when(card), None, _fingerprint(identity), version,
                  effects.of(adapter), base=folder)  # fmt: skip


def _when(card: dict[str, Any]) -> int:
    when = datetime.datetime.strptime(card["created"], "%Y-%m-%dT%H:%M:%SZ")
    return int(when.replace(tzinfo=datetime.timezone.utc).timestamp())


def _fingerprint(identity: Any) -> str:
    return f"fp_{hashlib.sha256(repr(identity).encode()).hexdigest()[:10]}"


def load_all(catalog: Catalog) -> Any:
    """Load base and adapters; fills in each Served's tokenizer. A PeftModel, or the base alone."""
    import torch

    model, tokenizer = _load_base(catalog)
    adapters = [(served, served.version.folder) for served in catalog.served if served.version]
    for served, folder in adapters:
        served.tokenizer = _tokenizer(folder) or tokenizer
    effects.fit_embedding(model, ((s.effect, f, s.tokenizer) for s, f in adapters if s.effect))
    try:
        for served, folder in adapters:
            model = loading.attach(model, folder, served.adapter)
    except torch.OutOfMemoryError:
        raise _no_memory(catalog) from None
    except console.Problem as problem:
        fix = f"python scripts/checkpoint_manager.py verify {served.id}"
        raise console.Problem(f"{served.id} cannot be loaded: {problem}", fix) from None
    first = catalog.served[0].tokenizer or tokenizer
    for served in catalog.served:
        if served.adapter == BASE:  # without a template of its own it takes the adapter's
            served.tokenizer = tokenizer if tokenizer and tokenizer.chat_template else first
        _finish(served, model)
    return model.eval()


def load_one(catalog: Catalog, model: Any, served: Served) -> None:
    """Load one more adapter beside those of load_all. Problem where it does not fit; then the
    model is as it was.
    """
    import torch

    folder = served.version.folder
    first = catalog.served[0].tokenizer
    served.tokenizer = _tokenizer(folder) or _tokenizer(catalog.folder) or first
    rows = model.get_input_embeddings().weight.shape[0]
    wanted = max(served.effect.embedding_rows, len(served.tokenizer))
    if wanted > rows or served.effect.embedding_rows not in (0, rows):
        raise console.Problem(f"it needs {wanted:,} embeddings, the served base has {rows:,}",
                              f"restart the server with --checkpoint {served.id}")  # fmt: skip
    try:
        loading.attach(model, folder, served.adapter)
        _finish(served, model)
    except torch.OutOfMemoryError:
        forget(model, served)
        raise console.Problem("out of GPU memory", "restart the server with fewer versions"
                              ) from None  # fmt: skip
    except BaseException:
        forget(model, served)
        raise
    model.eval()


def forget(model: Any, served: Served) -> None:
    """Take an adapter off the model, where it is on it."""
    if served.adapter in model.peft_config:
        model.delete_adapter(served.adapter)


def _load_base(catalog: Catalog) -> tuple[Any, Any]:
    """(model, tokenizer) of the base; the tokenizer is None where the folder has none."""
    import torch

    options = catalog.options
    if options.device == "cuda" and not torch.cuda.is_available():
        raise console.Misuse("--device cuda: no GPU here", "make gpu says why; or --device cpu")
    section = SimpleNamespace(**catalog.quantization)
    fix = f"python scripts/verify_model.py {catalog.folder} --hash finds a broken file"
    if section.load_in_4bit or section.load_in_8bit:
        fix = "try --no-load-in-4bit"
    try:
        model = loading.load(
            catalog.folder,
            dtype=options.dtype,
            device_map=options.device or loading.device(),
            quantization=section,
            remedy=fix,
        )
    except torch.OutOfMemoryError:
        raise _no_memory(catalog) from None
    tokenizer = _tokenizer(catalog.folder)
    if tokenizer:
        readiness.warn(tokenizer, catalog.folder)
    return model, tokenizer


def _tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, None where it has none."""
    if not (folder / tokenizers.CONFIG).is_file():
        return None
    tokenizer = tokenizers.load(folder)
    tokenizer("a", add_special_tokens=False)  # drops a stored truncation before threads share it
    return tokenizer


def _finish(served: Served, model) -> None:
    """The tokens that end an answer, and how many ids are real."""
    if served.tokenizer is None:
        raise console.Problem(f"{served.id} has no tokenizer", "copy tokenizer.json to the base")
    ends = model.generation_config.eos_token_id
    stops = set(ends if isinstance(ends, list) else [ends]) | {served.tokenizer.eos_token_id}
    if served.tokenizer.chat_template:
        stops.add(tokenizer_checks.template_end(served.tokenizer))
    served.ends = frozenset(stops - {None})
    served.vocabulary = len(served.tokenizer)


def _no_memory(catalog: Catalog) -> console.Problem:
    return console.Problem(
        f"{catalog.folder}: out of GPU memory", "add --load-in-4bit, or --device cpu"
    )
