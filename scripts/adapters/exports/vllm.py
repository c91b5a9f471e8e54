"""What vLLM needs to serve a version beside its base, or why it cannot."""

from __future__ import annotations

import shlex

from adapters.version_store import Version
from kit import paths

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that --max-lora-rank takes


def refusals(version: Version) -> list[str]:
    """Why vLLM cannot serve this adapter; empty where it can."""
    lora = version.card["adapter"]
    found = []
    if lora.get("modules_to_save"):
        found.append(f"modules_to_save ({', '.join(lora['modules_to_save'])})")
    if lora.get("use_dora"):
        found.append("DoRA")
    if lora.get("bias") not in (None, "none"):
        found.append(f"bias {lora['bias']}")
    if lora["max_rank"] > RANKS[-1]:
        found.append(f"rank {lora['max_rank']} above {RANKS[-1]}")
    return found


def command(version: Version) -> str:
    """The `vllm serve` line, or what to do instead."""
    why = refusals(version)
    if why:
        merge = f"checkpoint_manager.py export {version.reference} --format merged --output DIR"
        return f"vLLM cannot serve it ({', '.join(why)}): {merge}"
    rank = next(r for r in RANKS if r >= version.card["adapter"]["max_rank"])
    folder = paths.show(version.folder)
    words = ["vllm", "serve", version.card["base"]["name"], "--enable-lora"]
    words += ["--max-lora-rank", str(rank), "--lora-modules", f"{version.name}={folder}"]
    if (version.folder / "chat_template.jinja").is_file():
        words += ["--chat-template", f"{folder}/chat_template.jinja"]
    return shlex.join(words)
