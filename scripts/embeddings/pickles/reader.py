"""Read a pickle as data: no import, no call, bounded memory.

    value = read("cluster1_gpu0.pkl")        # dict of plain values, Bytes and Array
    value["embeddings"].data.offset          # where the rows lie in the file

Unpickling runs whatever the file names, and even numpy's own callables can be led to crash or to
fill the memory. This reader knows the opcodes that a dict of numbers, text and numpy arrays needs
(protocols 2-5, numpy 1 and 2) and refuses every other one. Large values are not read: they stay
(offset, length). Every length is bounded by the bytes that remain, the number of opcodes by
MAX_OPCODES. Anything unexpected is one Problem that names file and byte.

Opcodes: https://docs.python.org/3/library/pickletools.html and PEP 574. What may be made of them:
pickle_values.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from embeddings.pickles.values import (
    GLOBALS,
    MAKERS,
    Array,
    Bytes,
    Dtype,
    Global,
    Refused,
    Text,
    fill_array,
)
from kit import console

MAX_OPCODES = 400_000  # of one checkpoint; an honest one needs about 200
MAX_TEXT = 4096  # bytes of one decoded string
MAX_DECODED = 16 << 20  # bytes of all of them
WINDOW = 1 << 16


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The dict pickled in the file at `path`; text longer than MAX_TEXT stays Text."""
    with open(path, "rb", buffering=0) as f:
        return run(Machine(f.fileno()), path)


def run(machine: Machine, path: str | os.PathLike) -> Any:
    """The machine's value, with every way it can fail turned into one Problem."""
    try:
        return machine.run()
    except Refused as refused:
        reason = str(refused)
    except (IndexError, KeyError, ValueError, TypeError, struct.error, OverflowError) as error:
        reason = f"the opcodes do not fit together ({type(error).__name__})"
    except (MemoryError, RecursionError) as error:
        reason = f"it asks for too much memory ({type(error).__name__})"
    raise console.Problem(
        f"{path}: not readable as a plain pickle: {reason}, at byte {machine.position()}",
        "fetch or write the file again; nothing in it was executed",
    ) from None


class Machine:
    """The pickle machine over a file descriptor, holding plain values only."""

    max_opcodes = MAX_OPCODES
    window = WINDOW
    surrogates = "strict"  # what is decoded is written to JSON

    def __init__(self, fd: int):
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self.buf, self.base, self.i = b"", 0, 0  # buf holds the file from byte `base`; i: in buf
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.decoded = 0
        self.protocol = 0

    # Bytes of the file

    def position(self) -> int:
        return self.base + self.i

    def fill(self, n: int) -> None:
        """Have at least `n` bytes in the buffer from here on."""
        here = self.position()
        if n > self.size - here:
            raise Refused(f"it ends after {self.size} bytes, in the middle: not whole")
        self.buf = os.pread(self.fd, max(n, self.window), here)
        self.base, self.i = here, 0
        if len(self.buf) < n:
            raise Refused("it became shorter while it was read: still being written?")

    def take(self, n: int) -> bytes:
        if self.i + n > len(self.buf):
            self.fill(n)
        self.i += n
        return self.buf[self.i - n : self.i]

    def skip(self, n: int) -> int:
        """Pass over `n` bytes and return the offset where they begin."""
        here = self.position()
        if n > self.size - here:
            raise Refused(f"{n} bytes are announced and {self.size - here} are left: not whole")
        self.i += n
        if self.i > len(self.buf):
            self.base, self.i, self.buf = here + n, 0, b""
        return here

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def decode(self, value: Any, what: str = "a name") -> str:
        """The characters of a Text (or of a string that is read already)."""
        if isinstance(value, str):
            return value
        if not isinstance(value, Text):
            raise Refused(f"{what} is no text")
        self.decoded += value.length
        if value.length > MAX_TEXT or self.decoded > MAX_DECODED:
            raise Refused(f"{what} is longer than any that is needed")
        raw = os.pread(self.fd, value.length, value.offset)
        try:
            return raw.decode("utf-8", self.surrogates)
        except UnicodeDecodeError:
            raise Refused(f"{what} is not UTF-8") from None

    # The machine

    def run(self) -> Any:
        if self.size == 0:
            raise Refused("it is empty")
        begin = self.take(2)
        if begin[0] != 0x80 or not 2 <= begin[1] <= 5:
            raise Refused("it does not begin as a pickle of protocol 2-5")
        self.protocol = begin[1]
        for _ in range(self.max_opcodes):
            if self.step():
                return self.end()
        raise Refused(f"more than {self.max_opcodes} opcodes")

    def step(self) -> bool:
        """Do one opcode; true after STOP."""
        if self.i >= len(self.buf):
            self.fill(1)
        op = self.buf[self.i]
        self.i += 1
        if op == STOP:
            return True
        handler = HANDLERS.get(op)
        if handler is None:
            raise Refused(f"the opcode {opcode_name(op)}, which no checkpoint needs")
        handler(self)
        return False

    def end(self) -> Any:
        if self.position() != self.size:
            raise Refused(f"{self.size - self.position()} bytes follow its end")
        if len(self.stack) != 1 or self.marks:
            raise Refused("it stops with its parts not put together")
        value = self.stack[0]
        if not isinstance(value, dict):
            raise Refused(f"it holds a {type(value).__name__} instead of a dict")
        return {key: self.plain(key, item) for key, item in value.items()}

    def plain(self, key: str, value: Any) -> Any:
        if isinstance(value, Text) and value.length <= MAX_TEXT:
            return self.decode(value, f"the text at {key!r}")
        if isinstance(value, Array) and value.data is None:
            raise Refused(f"the array at {key!r} has no elements")
        return value

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("an opcode wants a value that is not there")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused("an opcode wants a MARK that is not there")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self, kind: type) -> Any:
        value = self.pop()
        self.stack.append(value)
        if not isinstance(value, kind):
            raise Refused(f"a {type(value).__name__} stands where a {kind.__name__} must")
        return value

    def remembered(self) -> int:
        """How many values the memo holds: the number of the next one."""
        return len(self.memo)

    def memoize(self, index: int) -> None:
        """Picklers number what they remember 0, 1, 2 ...: a jump is an attack on the memory."""
        value = self.pop()
        self.stack.append(value)
        if index > len(self.memo):
            raise Refused(f"it remembers a value as number {index} after {len(self.memo)} others")
        self.memo[index : index + 1] = [value]

    def recall(self, index: int) -> None:
        if index >= len(self.memo):
            raise Refused(f"it recalls value {index} of {len(self.memo)}")
        self.stack.append(self.memo[index])

    def new_list(self) -> None:
        self.stack.append([])

    def new_dict(self) -> None:
        self.stack.append({})

    def text(self, length: int) -> None:
        self.stack.append(Text(self.skip(length), length))

    def bytes(self, length: int) -> None:
        self.stack.append(Bytes(self.skip(length), length))

    def long(self, length: int) -> None:
        if length > 8:
            raise Refused(f"a number of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def frame(self) -> None:
        length = self.number(8)
        if length > self.size - self.position():
            raise Refused(f"a frame of {length} bytes, more than are left: not whole")

    def tuple(self, n: int) -> None:
        items = [self.pop() for _ in range(n)]
        self.stack.append(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise Refused("a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            key = self.decode(key, "a key") if isinstance(key, Text) else key
            if type(key) not in (str, int):
                raise Refused(f"a {type(key).__name__} as a key")
            if key in target:
                raise Refused(f"the key {key!r} stands twice")
            target[key] = value

    def global_(self, module: str, name: str) -> None:
        known = GLOBALS.get(f"{module} {name}")
        if known is None:
            called = f"{module}.{name}"[:80]
            raise Refused(f"it names {called!a}, which no checkpoint needs")
        self.stack.append(Global(known))

    def global_lines(self) -> None:
        lines = []
        for _ in range(2):
            line = b""
            while not line.endswith(b"\n"):
                line += self.take(1)
                if len(line) > 200:
                    raise Refused("a name of over 200 bytes")
            lines.append(line[:-1].decode("utf-8"))
        self.global_(*lines)

    def global_stack(self) -> None:
        name = self.decode(self.pop())
        self.global_(self.decode(self.pop()), name)

    def reduce(self) -> None:
        arguments = self.pop()
        function = self.pop()
        name = function.name if isinstance(function, Global) else "an unknown function"
        maker = MAKERS.get(name)
        if maker is None or type(arguments) is not tuple:
            raise Refused(f"it calls {name}")
        try:
            self.stack.append(maker(self, *arguments))
        except (TypeError, ValueError, struct.error):
            raise Refused(f"{name} has arguments that numpy does not write") from None

    def build(self) -> None:
        state = self.pop()
        target = self.pop()
        if isinstance(target, Dtype) and target.order is None:
            self.build_dtype(target, state)
        elif isinstance(target, Array) and target.data is None:
            version, shape, dtype, fortran, data = state
            if version != 1 or type(fortran) is not bool:
                raise Refused("an array with a state that numpy does not write")
            fill_array(target, data, dtype, shape, fortran)
        else:
            raise Refused(f"it changes the state of a {type(target).__name__}")
        self.stack.append(target)

    def build_dtype(self, dtype: Dtype, state: Any) -> None:
        order = self.decode(state[1], "a byte order")
        if order not in ("<", ">", "|") or state[0] != 3 or state[2:] != (None,) * 3 + (-1, -1, 0):
            raise Refused("a type with fields, of an object or with a state numpy does not write")
        dtype.order = order


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
    """'NEWOBJ' for 0x81; the number for a byte that is no opcode."""
    import pickletools

    known = pickletools.code2op.get(chr(op))
    return known.name if known else f"0x{op:02x}"
