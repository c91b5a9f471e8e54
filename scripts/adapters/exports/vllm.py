"""How vLLM serves a version on its base, or why it cannot."""

from __future__ import annotations

import shlex

from adapters import effect
from adapters.version_store import Version
from adapters.weights import Difference
from kit import paths

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that --max-lora-rank takes


def command(version: Version) -> str:
    """The `vllm serve` line, or why vLLM cannot serve it and what to do instead."""
    try:
        adapter = effect.of(version.folder)
    except Difference as difference:
        return f"not checked: {difference}"
    reasons, rank = adapter.vllm_refusals, version.card["adapter"]["max_rank"]
    if rank > RANKS[-1]:
        reasons.append(f"rank {rank} above {RANKS[-1]}")
    if reasons:
        instead = f"checkpoint_manager.py export {version.reference} --format merged --output DIR"
        if not adapter.mergeable:
            instead = f"model_server.py --checkpoint {version.reference}"
        return f"vLLM cannot serve it ({', '.join(reasons)}): {instead}"
    allowed = next(r for r in RANKS if r >= rank)
    folder = paths.show(version.folder)
    words = ["vllm", "serve", version.card["base"]["name"], "--enable-lora"]
    words += ["--max-lora-rank", str(allowed), "--lora-modules", f"{version.name}={folder}"]
    if (version.folder / "chat_template.jinja").is_file():
        words += ["--chat-template", f"{folder}/chat_template.jinja"]
    return shlex.join(words)
