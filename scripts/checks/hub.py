"""Hugging Face: where its cache is, whether a token is there (never which)."""

from __future__ import annotations

import os
from pathlib import Path

from checks import storage
from kit.report import Check

_YES = ("1", "true", "yes", "on")


def token_place() -> str:
    """Where huggingface_hub would find a token: a variable's or file's name, '' for nowhere."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return name
    file = token_file()
    return str(file) if file.is_file() and file.stat().st_size else ""


def token_file() -> Path:
    """The file that `hf auth login` writes."""
    home = os.environ.get("HF_HOME") or storage.hf_cache().parent
    return Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).expanduser()


def check_cache() -> Check:
    """Where downloads go."""
    named = next((n for n in ("HF_HUB_CACHE", "HF_HOME") if os.environ.get(n)), "the default")
    return Check("HF cache", "ok", f"{storage.hf_cache()} ({named})")


def check_token(needed: bool) -> Check:
    """Presence of a token; `needed`: a gated model must still be downloaded."""
    place = token_place()
    if not place:
        text = "none" + (": the base model is gated" if needed else "; gated models alone need one")
        fix = "hf auth login, after accepting the licence on the model's page"
        return Check("HF token", "warn" if needed else "skip", text, fix if needed else "")
    file = Path(place)
    if file.is_absolute() and file.stat().st_mode & 0o077:
        return Check("HF token", "warn", f"others can read {place}", f"chmod 600 {place}")
    return Check("HF token", "ok", f"there ({place})")


def check_transfer(installed: set[str] | None) -> list[Check]:
    """HF_HUB_ENABLE_HF_TRANSFER asks for a package that the locks do not hold.

    huggingface_hub 2 warns and goes on; before 1.0, in other environments, it raises.
    """
    name = "HF_HUB_ENABLE_HF_TRANSFER"
    if os.environ.get(name, "").lower() not in _YES or "hf-transfer" in (installed or ()):
        return []
    text = "set without the package hf_transfer: older huggingface_hub refuses to download"
    return [Check(name, "warn", text, f"unset {name} (HF_XET_HIGH_PERFORMANCE=1 replaces it)")]
