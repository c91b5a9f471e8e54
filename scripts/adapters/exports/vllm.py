"""What vLLM needs to serve a version beside its base, or why it cannot."""

from __future__ import annotations

import shlex

from adapters import effect
from adapters.version_store import Version
from adapters.weights import Difference
from kit import paths

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that --max-lora-rank takes


def refusals(version: Version) -> list[str]:
    """Why vLLM cannot serve this adapter; empty where it can."""
    reasons = effect.of(version.folder).vllm_refusals
    rank = version.card["adapter"]["max_rank"]
    return reasons + ([f"rank {rank} above {RANKS[-1]}"] if rank > RANKS[-1] else [])


def command(version: Version) -> str:
    """The `vllm serve` line, or what to do instead."""
    try:
        reasons = refusals(version)
    except Difference as difference:
        return f"not checked: {difference}"
    if reasons:
        merge = f"checkpoint_manager.py export {version.reference} --format merged --output DIR"
        return f"vLLM cannot serve it ({', '.join(reasons)}): {merge}"
    rank = next(r for r in RANKS if r >= version.card["adapter"]["max_rank"])
    folder = paths.show(version.folder)
    words = ["vllm", "serve", version.card["base"]["name"], "--enable-lora"]
    words += ["--max-lora-rank", str(rank), "--lora-modules", f"{version.name}={folder}"]
    if (version.folder / "chat_template.jinja").is_file():
        words += ["--chat-template", f"{folder}/chat_template.jinja"]
    return shlex.join(words)
