"""How many tokens the cache may hold, so that a pass and a join beside it still fit.

What a pass needs beside the cache, with keys and values of KV bytes a token in L layers:
    prompts    PIECE tokens: hidden states, the inner width of one layer, the mask over all columns
    masked     keys and values of one layer, repeated for every head where heads share them
    a join     keys and values of one layer once more, and their padded copies
    a step     the logits of every row, in float32, three times while a token is drawn
"""

from __future__ import annotations

from typing import Any

from base_model import library_exit
from base_model.gpu_errors import gpu_is_lost, lost_gpu, memory_is_full
from kit import console

GPU_SHARE, CPU_SHARE = 0.6, 0.5  # of the free memory at most; others live on the machine too
USABLE = 0.9  # of the free memory: the allocator does not give every byte
HALF, SINGLE = 2, 4  # bytes of a number


def cells(free: int, per_token: float, config: Any, rows: int, piece: int, gpu: bool) -> int:
    """How many tokens the cache may hold in `free` bytes; Problem where there is no room.

    per_token: bytes of one token's keys and values in all layers. `piece`: tokens of a pass.
    config: the text model's; what it does not name counts as nothing.
    """
    layers = max(1, getattr(config, "num_hidden_layers", 1))
    heads = getattr(config, "num_attention_heads", None) or 1
    repeats = heads / (getattr(config, "num_key_value_heads", None) or heads)
    hidden, vocabulary = getattr(config, "hidden_size", 0), getattr(config, "vocab_size", 0)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    number = HALF if gpu else SINGLE
    longest = getattr(config, "max_position_embeddings", 0)
    fixed = piece * (8 * hidden + 4 * inner) * number + 3 * rows * vocabulary * SINGLE
    per_cell = per_token * (1 + (repeats + 3) / layers)
    share = (GPU_SHARE if gpu else CPU_SHARE) * free / per_token
    # the mask of a pass grows with the columns, up to the model's context
    with_mask = (USABLE * free - fixed) / (per_cell + piece * number)
    without = (USABLE * free - fixed - piece * number * longest) / per_cell
    room = int(min(share, max(with_mask, without)))
    if room < 1:
        needed = console.size((fixed + per_cell) / USABLE)
        raise console.Problem(
            f"{console.size(free)} are free beside the model, a pass needs {needed}",
            "lower --rows, add --load-in-4bit, or end what else uses the memory (nvidia-smi)",
        )
    return room


def print_end(error: Exception) -> None:
    """Print why the server ends although no request can be answered to its end."""
    from training import gpu_memory

    if gpu_is_lost(error):
        problem: console.Problem = lost_gpu(error, "then restart the server")
    elif memory_is_full(error):
        problem = gpu_memory.out_of_memory(None, ["--rows", "--max-length", "--load-in-4bit"])
    else:
        problem = library_exit.unknown(error)
    library_exit.print_problem(problem)
