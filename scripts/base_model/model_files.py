"""A base model's folder: is everything there, whole, of one revision, and does it fit together?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from base_model import safetensors_header
from base_model.safetensors_header import Broken
from checks import storage
from kit import console, paths
from kit.report import STATUSES, Check

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
Entries = dict[str, dict[str, Any]]
Tensors = dict[str, tuple[str, tuple[int, ...]]]
_PARTS = re.compile(r".*\.(incomplete|part|partial|aria2|crdownload|tmp)$")


@dataclasses.dataclass
class Model:
    """A folder to look at. `facts`: its entry of configs/models.yaml as a dict, None if unknown."""

    folder: Path
    name: str
    facts: dict[str, Any] | None = None

    @property
    def again(self) -> str:
        """The command that downloads what is missing or differs; what is whole stays."""
        facts, folder = self.facts or {}, shlex.quote(paths.show(self.folder))
        repo = facts.get("repo") or "ORG/" + self.name
        left_out = "".join(f" --exclude {shlex.quote(p)}" for p in facts.get("exclude", []))
        place = "" if cache_snapshot(self.folder) else f" --local-dir {folder}"
        return f"hf download {repo}{place}{left_out}"

    def afresh(self, file: str) -> str:
        """The command for a file that is there and wrong: hf would believe it to be complete."""
        return f"rm {shlex.quote(paths.show(self.folder / file))} && {self.again}"


def known() -> Entries:
    """base_models of configs/models.yaml. Raises ModuleNotFoundError without PyYAML."""
    from config import loader

    return loader.load("models.yaml").model_dump()["base_models"]


def cache_snapshot(folder: Path) -> tuple[str, str] | None:
    """('org/name', revision) if `folder` is a snapshot in the Hugging Face cache."""
    repo, name = folder.parent.parent.name, folder.name
    if folder.parent.name == "snapshots" and repo.startswith("models--"):
        return repo.removeprefix("models--").replace("--", "/", 1), name
    return None


def find(name: str, entries: Entries, revision: str | None = None) -> Model | None:
    """The model that `name` means: a folder, a known name, or org/name in the cache; None: neither.

    A known model that is nowhere is returned with the folder where it should be.
    """
    for folder in (Path(name).expanduser(), paths.workdir() / name):
        if folder.is_dir():
            return _named(folder.resolve(), entries)
    short = name.rstrip("/").rpartition("/")[2]
    key = next((k for k in entries if k.lower() == short.lower()), None)
    if key and name.lower() not in (key.lower(), entries[key]["repo"].lower()):
        key = key if Path(name).parent.name == "models" else None
    repo = entries[key]["repo"] if key else name
    usual = paths.folder("models") / (key or short)
    if usual.is_dir():
        return _named(usual.resolve(), entries)
    if (cached := _cached(repo, revision)) is not None:
        return _named(cached, entries)
    return Model(usual, key, entries[key]) if key else None


def _cached(repo: str, revision: str | None) -> Path | None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        return None
    home = storage.hf_cache() / f"models--{repo.replace('/', '--')}"
    if revision is None and (home / "refs" / "main").is_file():
        revision = (home / "refs" / "main").read_text(encoding="utf-8").strip()
    snapshots = sorted((home / "snapshots").glob(f"{revision or ''}*"))
    return snapshots[0] if snapshots else None


def _named(folder: Path, entries: Entries) -> Model:
    cached = cache_snapshot(folder)
    name = cached[0].rpartition("/")[2] if cached else folder.name
    key = next((k for k in entries if k.lower() == name.lower()), None)
    if key is None and (folder / INDEX).is_file():  # the folder may have any name
        digest = _sha256(folder / INDEX)
        files = {k: e["files"] for k, e in entries.items()}
        key = next((k for k in files if _entry(files[k], INDEX).get("sha256") == digest), None)
    return Model(folder, key or name, entries[key] if key else None)


def _entry(files: list[dict[str, Any]], path: str) -> dict[str, Any]:
    return next((f for f in files if f["path"] == path), {})


# --- the checks -------------------------------------------------------------------------------


def checks(model: Model, revision: str | None = None) -> list[Check]:
    """Everything but the hashes; reads a few hundred KB of any model."""
    if not model.folder.is_dir():
        text = f"{paths.show(model.folder)} is not there"
        return [Check("folder", "fail", text, model.again)]
    if not any(model.folder.iterdir()):
        return [Check("folder", "fail", f"{paths.show(model.folder)} is empty", model.again)]
    if (model.folder / "adapter_config.json").is_file():
        text = "an adapter, not a base model (adapter_config.json)"
        fix = "name the base model's folder"
        return [Check("folder", "fail", text, fix)]
    tensors: Tensors = {}
    found = [*_half_downloads(model), *_pointers(model), *_weights(model, tensors), *_sizes(model)]
    found += [_config(model, tensors), *_tokenizer(model), *_revision(model, revision)]
    kept: dict[str, Check] = {}
    for check in found:  # one line a file: its worst finding, the first of equals
        so_far = kept.setdefault(check.name, check)
        kept[check.name] = max(so_far, check, key=lambda c: STATUSES.index(c.status))
    return [*kept.values(), *_second_copies(model)]


def _half_downloads(model: Model) -> Iterator[Check]:
    roots = [model.folder]
    if cache_snapshot(model.folder):
        roots.append(model.folder.parent.parent / "blobs")
    parts = sorted(p for root in roots for p in root.rglob("*") if _PARTS.match(p.name))
    if parts:
        text = f"{len(parts)} unfinished files, {paths.show(parts[0])} first"
        yield Check("download", "fail", text, f"{model.again} (goes on where it stopped)")
    for link in sorted(model.folder.glob("*")):
        if link.is_symlink() and not link.exists():
            yield Check(
                link.name, "fail", "a link to nowhere", f"rm {paths.show(link)} && {model.again}"
            )


def _pointers(model: Model) -> Iterator[Check]:
    for path in sorted(model.folder.glob("*")):
        small = path.is_file() and path.stat().st_size < 1024
        if small and safetensors_header.is_pointer(path):
            fix = f"git lfs pull in that folder, or {model.afresh(path.name)}"
            yield Check(path.name, "fail", "a Git-LFS pointer, not the file", fix)


def _sizes(model: Model) -> list[Check]:
    """Every known file that is needed is there; every known file has its size."""
    if not model.facts:
        return []
    wrong, missing, count = [], [], 0
    for entry in model.facts["files"]:
        path = model.folder / entry["path"]
        if not path.is_file():
            if entry["needed"] and not path.name.endswith(".safetensors"):
                missing.append(entry["path"])
            continue
        count += 1
        size = path.stat().st_size
        if size == entry["size"] or safetensors_header.is_pointer(path):
            continue
        text = f"{size:,} bytes, {entry['size']:,} are known"
        weights = path.name.endswith(".safetensors")
        status = "fail" if weights or size == 0 else "warn"
        fix = model.afresh(entry["path"]) + ("" if weights else " (or it is of a later revision)")
        wrong.append(Check(path.name, status, text, fix))
    good = Check("files", "ok", f"{count} files of {model.name} have the known sizes")
    return _missing(model, missing, "known for this model") + wrong or [good]


def _missing(model: Model, names: list[str], why: str) -> list[Check]:
    if not names:
        return []
    more = f" nor {len(names) - 1} more" if len(names) > 1 else ""
    text = f"not there{more}, {why}"
    return [Check(names[0], "fail", text, model.again)]


def _weights(model: Model, tensors: Tensors) -> list[Check]:
    """Index and shards, or the single file; fills `tensors` with what the headers hold."""
    index, single = model.folder / INDEX, model.folder / "model.safetensors"
    if index.is_file() and not safetensors_header.is_pointer(index):
        try:
            shards, total = _read_index(index)
        except Broken as error:
            return [Check(INDEX, "fail", str(error), model.afresh(INDEX))]
        return _sharded(model, shards, total, tensors)
    if index.is_file():
        return []  # the pointer is reported already
    if single.is_file():
        found = _header(model, "model.safetensors", tensors)
        return found or [Check("weights", "ok", f"model.safetensors, {len(tensors)} tensors")]
    shards = sorted(model.folder.glob("model-*-of-*.safetensors"))
    if shards:
        return [Check(INDEX, "fail", f"not there, {len(shards)} shards are", model.again)]
    if list(model.folder.glob("*.bin")) or list(model.folder.glob("*.gguf")):
        text = "weights as .bin or .gguf only: Tandem trains from safetensors"
        return [Check("weights", "fail", text, "take a revision of the model in safetensors")]
    return [Check("weights", "fail", "no model.safetensors and no index", model.again)]


def _read_index(path: Path) -> tuple[dict[str, list[str]], int | None]:
    """({shard: its tensors}, total bytes or None). Raises Broken."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        pairs = list(index["weight_map"].items())
        total = (index.get("metadata") or {}).get("total_size")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise Broken("not an index: JSON with a weight_map is expected") from None
    shards: dict[str, list[str]] = {}
    for tensor, shard in pairs:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w][\w.-]*\.safetensors", shard):
            raise Broken(f"{tensor} lies in {str(shard)[:40]!r}, which is no shard's name")
        shards.setdefault(shard, []).append(tensor)
    if not shards:
        raise Broken("its weight_map is empty")
    return shards, total if isinstance(total, int) else None


def _sharded(model: Model, shards, total, tensors) -> list[Check]:
    found: list[Check] = []
    missing: list[str] = []
    for shard in sorted(shards):
        path, inside = model.folder / shard, {}
        if not path.is_file():
            missing += [] if path.is_symlink() else [shard]
            continue
        if safetensors_header.is_pointer(path):
            continue  # reported as one
        wrong = _header(model, shard, inside)
        if not wrong and set(inside) != set(shards[shard]):
            wrong = [_differs(model, shard, set(inside), set(shards[shard]))]
        found += wrong
        tensors |= inside
    found = _missing(model, missing, "named by the index") + found
    numbered = [re.fullmatch(r"model-\d+-of-(\d+)\.safetensors", s) for s in shards]
    if all(numbered) and {int(n[1]) for n in numbered} != {len(shards)}:  # type: ignore[index]
        text = f"names {len(shards)} shards, their names say {numbered[0][1]}"  # type: ignore[index]
        found.append(Check(INDEX, "fail", text, model.afresh(INDEX)))
    there = sum(_bytes(*t) for t in tensors.values())
    if not found and total is not None and there != total:
        text = f"total_size {total:,}, the tensors have {there:,} bytes"
        found.append(Check(INDEX, "warn", text, f"{model.afresh(INDEX)} (or tied weights)"))
    text = f"{len(shards)} shards, {len(tensors)} tensors, {console.size(there)}: as the index says"
    return found or [Check("weights", "ok", text)]


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count * safetensors_header.BITS[dtype] // 8


def _header(model: Model, file: str, tensors: dict) -> list[Check]:
    path = model.folder / file
    try:
        tensors |= safetensors_header.read(path)
    except Broken as error:
        return [Check(file, "fail", str(error), model.afresh(file))]
    return []


def _differs(model: Model, shard: str, inside: set[str], named: set[str]) -> Check:
    missing, more = sorted(named - inside), sorted(inside - named)
    first = f"{missing[0]} is not in it" if missing else f"{more[0]} is not in the index"
    text = f"holds other tensors than the index says: {first} ({len(missing) + len(more)} differ)"
    return Check(shard, "fail", text, f"{model.afresh(shard)} (shard and index of two revisions?)")


def _config(model: Model, tensors: Tensors) -> Check:
    """config.json: there, JSON, of a causal model, and of the shapes that the weights have."""
    path = model.folder / "config.json"
    if not path.is_file():
        return Check("config.json", "fail", "not there", model.again)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return Check(
            "config.json", "fail", "not JSON with a model_type", model.afresh("config.json")
        )
    wrong = _misfits(config, tensors)
    if wrong:
        return Check("config.json", "fail", f"does not fit the weights: {wrong}", model.again)
    dtype = config.get("dtype") or config.get("torch_dtype") or "no dtype"
    return Check(
        "config.json", "ok", f"{kind}, {dtype}" + (", fits the weights" if tensors else "")
    )


def _misfits(config: dict[str, Any], tensors: Tensors) -> str:
    layers = {
        int(m[1]) for n in tensors if (m := re.match(r"(?:model|backbone)\.layers\.(\d+)\.", n))
    }
    said = config.get("num_hidden_layers")
    if layers and said is not None and layers != set(range(said)):
        return f"num_hidden_layers {said}, {len(layers)} in the weights"
    embedding = tensors.get("model.embed_tokens.weight")
    wanted = (config.get("vocab_size"), config.get("hidden_size"))
    if embedding and None not in wanted and embedding[1] != wanted:
        return f"vocab_size x hidden_size {wanted}, {embedding[1]} in the weights"
    tied = config.get("tie_word_embeddings", True)
    if embedding and not tied and layers and "lm_head.weight" not in tensors:
        return "tie_word_embeddings false and no lm_head.weight"
    return ""


def _tokenizer(model: Model) -> list[Check]:
    there = [n for n in TOKENIZERS if (model.folder / n).is_file()]
    if not there:
        return [Check("tokenizer", "fail", f"none of {', '.join(TOKENIZERS)}", model.again)]
    template = (model.folder / "chat_template.jinja").is_file()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = model.folder / name
        if not path.is_file():
            continue
        if safetensors_header.is_pointer(path):
            return []
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return [Check(name, "fail", "not JSON (cut off?)", model.afresh(name))]
        template = template or isinstance(value, dict) and "chat_template" in value
    if not template:
        fix = "use the Instruct model, or set model.chat_template in configs/training_config.yaml"
        return [Check("tokenizer", "warn", f"{there[0]}, no chat template", fix)]
    return [Check("tokenizer", "ok", f"{', '.join(there)}, with a chat template")]


# --- revision ---------------------------------------------------------------------------------


def downloaded(folder: Path) -> dict[str, tuple[str, str]]:
    """{file: (commit, etag)} as `hf download --local-dir` noted it; etag is a SHA-256 for LFS."""
    notes = folder / ".cache" / "huggingface" / "download"
    found = {}
    for path in sorted(notes.rglob("*.metadata")):
        lines = path.read_text(encoding="utf-8", errors="replace").split()
        if len(lines) >= 2:
            found[path.relative_to(notes).as_posix().removesuffix(".metadata")] = lines[0], lines[1]
    return found


def _revision(model: Model, wanted: str | None) -> list[Check]:
    known_one = (model.facts or {}).get("revision")
    cached = cache_snapshot(model.folder)
    commits = {c for c, _ in downloaded(model.folder).values()} | ({cached[1]} if cached else set())
    name = "revision"
    if len(commits) > 1:
        text = f"files of {len(commits)} revisions: {', '.join(sorted(c[:12] for c in commits))}"
        return [
            Check(name, "fail", text, f"{model.again} --revision {wanted or known_one or 'main'}")
        ]
    if not commits:
        if wanted:
            fix = f"{model.again} --revision {wanted}"
            return [Check(name, "warn", f"unknown here, {wanted[:12]} is asked for", fix)]
        return [Check(name, "skip", "unknown: not downloaded with `hf download`")]
    commit = commits.pop()
    if wanted and not commit.startswith(wanted):
        fix = f"{model.again} --revision {wanted}"
        return [Check(name, "fail", f"{commit[:12]}, {wanted[:12]} is asked for", fix)]
    if not wanted and known_one and commit != known_one:
        fix = f"{model.again} --revision {known_one}, or keep it: --hash compares the weights"
        return [Check(name, "warn", f"{commit[:12]}, {known_one[:12]} is the known one", fix)]
    return [Check(name, "ok", commit)]


def _second_copies(model: Model) -> list[Check]:
    names = ("consolidated.safetensors", "original", "pytorch_model.bin")
    if not (model.folder / INDEX).is_file():
        return []
    found = []
    for path in (model.folder / n for n in names if (model.folder / n).exists()):
        size = storage.used(path) if path.is_dir() else path.stat().st_size
        text = f"{console.size(size)}, a second copy of the weights that nothing here reads"
        found.append(Check(path.name, "skip", f"{text}; may be deleted"))
    return found


# --- hashes -----------------------------------------------------------------------------------


def _sha256(path: Path, done: Callable[[int], None] = lambda n: None, git: bool = False) -> str:
    """SHA-256 of a file, or with `git` the blob id that Git gives it; `done` gets bytes read."""
    digest = hashlib.sha1(usedforsecurity=False) if git else hashlib.sha256()
    if git:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb", buffering=0) as f:
        while block := f.read(1 << 22):
            digest.update(block)
            done(len(block))
    return digest.hexdigest()


def expected_hashes(model: Model) -> dict[str, str]:
    """{file: SHA-256 (64 digits) or Git blob id (40)} that are known for files that are there."""
    hashes: dict[str, str] = {}
    for name, (_, etag) in downloaded(model.folder).items():
        hashes[name] = etag
    if cache_snapshot(model.folder):  # a snapshot links to blobs that are named by their hash
        for path in model.folder.rglob("*"):
            hashes[path.relative_to(model.folder).as_posix()] = path.resolve().name
    for entry in (model.facts or {}).get("files", []):
        if entry["sha256"]:
            hashes[entry["path"]] = entry["sha256"]
    good = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
    return {n: h for n, h in hashes.items() if good.fullmatch(h) and (model.folder / n).is_file()}


def hash_checks(model: Model, done: Callable[[int], None] = lambda n: None) -> list[Check]:
    """Every file that has a known hash, compared; four files at a time."""
    expected = expected_hashes(model)
    if not expected:
        text = "no hashes are known: not in configs/models.yaml, not downloaded with `hf download`"
        return [Check("hashes", "skip", text)]

    from concurrent.futures import ThreadPoolExecutor  # 20 ms that only hashing needs

    def one(item: tuple[str, str]) -> str:
        return _sha256(model.folder / item[0], done, git=len(item[1]) == 40)

    with ThreadPoolExecutor(4) as pool:
        actual = dict(zip(expected, pool.map(one, expected.items()), strict=True))
    notes = downloaded(model.folder)
    wrong = []
    for name in (n for n in expected if actual[n] != expected[n]):
        text = f"SHA-256 {actual[name][:12]}…, {expected[name][:12]}… is known"
        whole = (
            name in notes and not name.endswith(".safetensors") and _as_noted(model, name, notes)
        )
        fix = f"{model.again} --revision {(model.facts or {}).get('revision')}, or keep it"
        if whole:
            wrong.append(Check(name, "warn", f"{text}: as downloaded, of another revision", fix))
        else:
            wrong.append(Check(name, "fail", text, model.afresh(name)))
    return wrong or [Check("hashes", "ok", f"{len(expected)} files have the known hashes")]


def _as_noted(model: Model, name: str, notes: dict[str, tuple[str, str]]) -> bool:
    etag = notes[name][1]
    return _sha256(model.folder / name, git=len(etag) == 40) == etag
