"""Read a pickle as data: no import, no call, bounded memory.

    value = read("cluster1_gpu0.pkl")        # dict of plain values, PickleBytes and PickleArray
    value["embeddings"].data.offset          # where the rows lie in the file

Unpickling runs whatever the file names, and even numpy's own callables can be led to crash or to
fill the memory. This reader knows the opcodes that a dict of numbers, text and numpy arrays needs
(protocols 2-5, numpy 1 and 2) and refuses every other one. Large values are not read: they stay
(offset, length). Every length is bounded by the bytes that remain, the number of opcodes by
MAX_OPCODES. Anything unexpected is one Problem that names file and byte.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from embeddings.pickles.pickle_machine import PickleMachine
from embeddings.pickles.values import PickleRefused
from kit import console


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The dict pickled in the file at `path`; text longer than MAX_TEXT stays PickleText."""
    with open(path, "rb", buffering=0) as f:
        return run(PickleMachine(f.fileno()), path)


def run(machine: PickleMachine, path: str | os.PathLike) -> Any:
    """The machine's value, with every way it can fail turned into one Problem."""
    try:
        return machine.run()
    except PickleRefused as refused:
        reason = str(refused)
    except (IndexError, KeyError, ValueError, TypeError, struct.error, OverflowError) as error:
        reason = f"the opcodes do not fit together ({type(error).__name__})"
    except (MemoryError, RecursionError) as error:
        reason = f"it asks for too much memory ({type(error).__name__})"
    raise console.Problem(
        f"{path}: not readable as a plain pickle: {reason}, at byte {machine.position()}",
        "fetch or write the file again; nothing in it was executed",
    ) from None
