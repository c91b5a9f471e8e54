"""What never travels, by its name or its place, and the reason that a plan gives for it."""

from __future__ import annotations

from kit.secret_names import is_secret_name

SECRET, CACHE, ENVIRONMENT = "a secret", "a cache", "an environment or git's own"
HALF_DONE = "half-done or set aside"
# Names of files and folders by reason: whole names, beginnings, ends. Compared in lower case, for
# on a Mac .GIT is .git.
WHOLE = {
    **dict.fromkeys((".git", ".envs", ".venv"), ENVIRONMENT),
    **dict.fromkeys(("__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"), CACHE),
    **dict.fromkeys((".hypothesis", "node_modules", ".cache", ".ds_store"), CACHE),
    ".ipynb_checkpoints": CACHE,
    **dict.fromkeys((".rsync-partial", ".incoming", ".replaced", ".jobs"), HALF_DONE),
    **dict.fromkeys((".rehearsal", ".tandem-link"), HALF_DONE),
    ".lock": "a lock of this machine's processes",
}
BEGINNINGS = {".venv-": ENVIRONMENT}
ENDS = {".pyc": CACHE}
_BEGINNINGS, _ENDS = tuple(BEGINNINGS), tuple(ENDS)
LINE_BREAK = "a line break in its name; rename it"
LINK = "a symbolic link; copy the file itself there"
SPECIAL = "a pipe, socket or device, not a file"
STAY = {
    "models": "base models stay where they are; hf download on each host",
    "data/raw": "raw data stays here",
    "data/embeddings": "embeddings have their own way",
    "data/chroma": "the vector store is built where it is used",
    "adapters": "adapters come down, never up",
    "reports": "reports come down, never up",
}


def why_not(name: str) -> str:
    """Why a file or folder of this name never travels, or ''."""
    lower = name.lower()
    if lower in WHOLE:
        return WHOLE[lower]
    if lower.startswith(_BEGINNINGS):
        return next(why for text, why in BEGINNINGS.items() if lower.startswith(text))
    if lower.endswith(_ENDS):
        return next(why for text, why in ENDS.items() if lower.endswith(text))
    if is_secret_name(name):
        return SECRET
    return HALF_DONE if name[:1] == "." and name.endswith(".part") else ""


def stays(path: str) -> str:
    """Why `path`, relative to the kit's folder, never goes up: by a name in it or by its place."""
    parts = path.split("/")
    named = next(filter(None, map(why_not, parts)), "")
    if named or parts[-1] == ".gitkeep":
        return named
    placed = ("/".join(parts[:n]) for n in (1, 2))
    return next((STAY[place] for place in placed if place in STAY), "")
