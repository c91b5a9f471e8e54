"""The opcodes that a plain pickle needs, each as an action of the machine.

https://docs.python.org/3/library/pickletools.html and PEP 574; every other opcode is refused.
"""

from __future__ import annotations

import struct

STOP = ord(".")
HANDLERS = {
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("K"): lambda m: m.stack.append(m.number(1)),
    ord("M"): lambda m: m.stack.append(m.number(2)),
    ord("J"): lambda m: m.stack.append(struct.unpack("<i", m.take(4))[0]),
    ord("G"): lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    0x8A: lambda m: m.long(m.number(1)),
    0x8C: lambda m: m.text(m.number(1)),
    ord("X"): lambda m: m.text(m.number(4)),
    0x8D: lambda m: m.text(m.number(8)),
    ord("C"): lambda m: m.bytes(m.number(1)),
    ord("B"): lambda m: m.bytes(m.number(4)),
    0x8E: lambda m: m.bytes(m.number(8)),
    0x96: lambda m: m.bytes(m.number(8)),
    ord("]"): lambda m: m.new_list(),
    ord("}"): lambda m: m.new_dict(),
    ord(")"): lambda m: m.stack.append(()),
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("t"): lambda m: m.stack.append(tuple(m.pop_mark())),
    0x85: lambda m: m.tuple(1),
    0x86: lambda m: m.tuple(2),
    0x87: lambda m: m.tuple(3),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_mark()),
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    ord("q"): lambda m: m.memoize(m.number(1)),
    ord("r"): lambda m: m.memoize(m.number(4)),
    0x94: lambda m: m.memoize(m.remembered()),
    ord("h"): lambda m: m.recall(m.number(1)),
    ord("j"): lambda m: m.recall(m.number(4)),
    0x95: lambda m: m.frame(),
    ord("c"): lambda m: m.global_lines(),
    0x93: lambda m: m.global_stack(),
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
}


def opcode_name(op: int) -> str:
    """'NEWOBJ' for 0x81; the number for a byte that is not an opcode."""
    import pickletools

    known = pickletools.code2op.get(chr(op))
    return known.name if known else f"0x{op:02x}"
