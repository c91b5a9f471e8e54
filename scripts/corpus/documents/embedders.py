"""Texts as unit vectors. The default hashes words and needs no download; a folder with a model
(model2vec, or sentence-transformers where that package is installed) finds meaning as well.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import console, publish

_WORD = re.compile(r"\w+")
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
COMMON = frozenset(
    _WORD.findall(
        "a an and are as at be been but by can could did do does for from had has have he her his "
        "how i if in into is it its may more no not of on or our she so such than that the their "
        "them then there these they this to was we were what when where which who will with would "
        "you your about say says said"
    )
)


def load(name: str, dimensions: int) -> Any:
    """The embedder called `name`: "hashing", or the folder of a model.

    It has `identity` (a text that a collection remembers) and `embed(texts) -> float32 (n, d)`,
    each row of length 1. Raises Misuse for a name that is neither.
    """
    if name == "hashing":
        return HashingEmbedder(dimensions)
    folder = Path(name)
    if not folder.is_dir():
        from kit import paths

        folder = paths.workdir() / name
    if not folder.is_dir():
        raise console.Misuse(
            f"embedder {name}: neither `hashing` nor a folder with a model",
            "give a model's folder, or --set documents.embedder=hashing",
        )
    if _is_static(folder):
        return StaticEmbedder(folder)
    return SentenceEmbedder(folder)


class HashingEmbedder:
    """Words, word pairs and word beginnings hashed into `dimensions` signed places.

    The same text gives the same vector in every process and on every machine.
    """

    def __init__(self, dimensions: int):
        self.dimensions = dimensions
        self.identity = f"hashing-1:{dimensions}"

    def embed(self, texts: Sequence[str]) -> Any:
        import numpy as np

        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for i, text in enumerate(texts):
            for feature, weight in self._features(text).items():
                place, sign = self._place(feature)
                vectors[i, place] += sign * weight
        return _unit(vectors)

    @staticmethod
    def _features(text: str) -> dict[str, float]:
        """{feature: weight}; a feature's weight grows with the logarithm of its count."""
        words = [w for w in _WORD.findall(text.casefold()) if w not in COMMON]
        wide = _WIDE.findall(text)
        counts = Counter(words)
        weights = {w: 1 + math.log(n) for w, n in counts.items()}
        for w, n in counts.items():  # "regulation" and "regulations" meet in their beginning
            if len(w) > 5:
                weights[f"^{w[:5]}"] = 0.5 * (1 + math.log(n))
        pairs = Counter(zip(words, words[1:], strict=False))
        pairs.update(zip(wide, wide[1:], strict=False))
        return weights | {" ".join(p): 0.7 * (1 + math.log(n)) for p, n in pairs.items()}

    def _place(self, feature: str) -> tuple[int, float]:
        import xxhash

        number = xxhash.xxh3_64_intdigest(feature.encode("utf-8", "replace"))
        return (number >> 1) % self.dimensions, 1.0 if number & 1 else -1.0


def _unit(vectors: Any) -> Any:
    """Each row scaled to length 1. A row of zeros (no words at all) gets one fixed direction."""
    import numpy as np

    vectors = vectors.astype(np.float32)
    vectors[~vectors.any(axis=1), 0] = 1.0
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _is_static(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return config.get("model_type") == "model2vec"


class StaticEmbedder:
    """A model2vec folder: the mean of its tokens' vectors; neither torch nor model2vec needed."""

    def __init__(self, folder: Path):
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        weights = folder / "model.safetensors"
        if not weights.is_file() or not (folder / "tokenizer.json").is_file():
            raise console.Problem(f"{folder}: model.safetensors or tokenizer.json is missing",
                                  "copy the whole folder again")  # fmt: skip
        tensors = load_file(weights)
        self._vectors = tensors["embeddings"].astype("float32")
        self._weights = tensors.get("weights")  # newer models: a weight for each token
        self._mapping = tensors.get("mapping")  # and several tokens may share a vector
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.dimensions = self._vectors.shape[1]
        self.identity = f"model2vec:{publish.sha256(weights)[:16]}"

    def embed(self, texts: Sequence[str]) -> Any:
        import numpy as np

        unknown = self._tokenizer.token_to_id("[UNK]")
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for i, coded in enumerate(
            self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ):
            ids = [token for token in coded.ids if token != unknown]
            if ids:
                places = self._mapping[ids] if self._mapping is not None else ids
                rows = self._vectors[places]
                if self._weights is not None:
                    rows = rows * self._weights[ids][:, None]
                vectors[i] = rows.mean(axis=0)
        return _unit(vectors)


class SentenceEmbedder:
    """A sentence-transformers folder; the package must be installed (.venv-remote can hold it)."""

    def __init__(self, folder: Path):
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError:
            raise console.Problem(
                f"{folder}: sentence-transformers, which this model needs, is missing",
                "install it into this environment, or --set documents.embedder=hashing",
            ) from None
        self._model = SentenceTransformer(str(folder), local_files_only=True)
        self.dimensions = self._model.get_sentence_embedding_dimension()
        weights = sorted(folder.rglob("*.safetensors")) + sorted(folder.rglob("pytorch_model.bin"))
        self.identity = f"sentence-transformers:{publish.sha256(weights[0])[:16]}"

    def embed(self, texts: Sequence[str]) -> Any:
        return _unit(self._model.encode(list(texts), show_progress_bar=False))
