"""The pickle machine: a stack, a memo and the bytes of a file, holding plain values only."""

from __future__ import annotations

import os
import struct
from typing import Any

from embeddings.pickles.makers import GLOBALS, MAKERS, fill_array
from embeddings.pickles.opcodes import HANDLERS, STOP, opcode_name
from embeddings.pickles.values import (
    PickleArray,
    PickleBytes,
    PickleDtype,
    PickleGlobal,
    PickleRefused,
    PickleText,
    kind_name,
)

MAX_OPCODES = 400_000  # of one checkpoint; an honest one needs about 200
MAX_TEXT = 4096  # bytes of one decoded string
MAX_DECODED = 16 << 20  # bytes of all of them
WINDOW = 1 << 16


class PickleMachine:
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

    # PickleBytes of the file

    def position(self) -> int:
        return self.base + self.i

    def fill(self, n: int) -> None:
        """Have at least `n` bytes in the buffer from here on."""
        here = self.position()
        if n > self.size - here:
            raise PickleRefused(f"it ends after {self.size} bytes, in the middle: not whole")
        self.buf = os.pread(self.fd, max(n, self.window), here)
        self.base, self.i = here, 0
        if len(self.buf) < n:
            raise PickleRefused("it became shorter while it was read: still being written?")

    def take(self, n: int) -> bytes:
        if self.i + n > len(self.buf):
            self.fill(n)
        self.i += n
        return self.buf[self.i - n : self.i]

    def skip(self, n: int) -> int:
        """Pass over `n` bytes and return the offset where they begin."""
        here = self.position()
        if n > self.size - here:
            raise PickleRefused(
                f"{n} bytes are announced and {self.size - here} are left: not whole"
            )
        self.i += n
        if self.i > len(self.buf):
            self.base, self.i, self.buf = here + n, 0, b""
        return here

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def decode(self, value: Any, what: str = "a name") -> str:
        """The characters of a PickleText (or of a string that is read already)."""
        if isinstance(value, str):
            return value
        if not isinstance(value, PickleText):
            raise PickleRefused(f"{what} is not text")
        self.decoded += value.length
        if value.length > MAX_TEXT or self.decoded > MAX_DECODED:
            raise PickleRefused(f"{what} is longer than any that is needed")
        raw = os.pread(self.fd, value.length, value.offset)
        try:
            return raw.decode("utf-8", self.surrogates)
        except UnicodeDecodeError:
            raise PickleRefused(f"{what} is not UTF-8") from None

    # The machine

    def run(self) -> Any:
        if self.size == 0:
            raise PickleRefused("it is empty")
        begin = self.take(2)
        if begin[0] != 0x80 or not 2 <= begin[1] <= 5:
            raise PickleRefused("it does not begin as a pickle of protocol 2-5")
        self.protocol = begin[1]
        for _ in range(self.max_opcodes):
            if self.step():
                return self.end()
        raise PickleRefused(f"more than {self.max_opcodes} opcodes")

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
            raise PickleRefused(f"the opcode {opcode_name(op)}, which no checkpoint needs")
        handler(self)
        return False

    def end(self) -> Any:
        if self.position() != self.size:
            raise PickleRefused(f"{self.size - self.position()} bytes follow its end")
        if len(self.stack) != 1 or self.marks:
            raise PickleRefused("it stops with its parts not put together")
        value = self.stack[0]
        if not isinstance(value, dict):
            raise PickleRefused(f"it holds a {kind_name(value)} instead of a dict")
        return {key: self.plain(key, item) for key, item in value.items()}

    def plain(self, key: str, value: Any) -> Any:
        if isinstance(value, PickleText) and value.length <= MAX_TEXT:
            return self.decode(value, f"the text at {key!r}")
        if isinstance(value, PickleArray) and value.data is None:
            raise PickleRefused(f"the array at {key!r} has no elements")
        return value

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleRefused("an opcode wants a value that is not there")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleRefused("an opcode wants a MARK that is not there")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self, kind: type) -> Any:
        value = self.pop()
        self.stack.append(value)
        if not isinstance(value, kind):
            raise PickleRefused(f"a {kind_name(value)} is where a {kind.__name__} must be")
        return value

    def remembered(self) -> int:
        """How many values the memo holds: the number of the next one."""
        return len(self.memo)

    def memoize(self, index: int) -> None:
        """Picklers number what they remember 0, 1, 2 ...: a jump is an attack on the memory."""
        value = self.pop()
        self.stack.append(value)
        if index > len(self.memo):
            raise PickleRefused(
                f"it remembers a value as number {index} after {len(self.memo)} others"
            )
        self.memo[index : index + 1] = [value]

    def recall(self, index: int) -> None:
        if index >= len(self.memo):
            raise PickleRefused(f"it recalls value {index} of {len(self.memo)}")
        self.stack.append(self.memo[index])

    def new_list(self) -> None:
        self.stack.append([])

    def new_dict(self) -> None:
        self.stack.append({})

    def text(self, length: int) -> None:
        self.stack.append(PickleText(self.skip(length), length))

    def bytes(self, length: int) -> None:
        self.stack.append(PickleBytes(self.skip(length), length))

    def long(self, length: int) -> None:
        if length > 8:
            raise PickleRefused(f"a number of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def frame(self) -> None:
        length = self.number(8)
        if length > self.size - self.position():
            raise PickleRefused(f"a frame of {length} bytes, more than are left: not whole")

    def tuple(self, n: int) -> None:
        items = [self.pop() for _ in range(n)]
        self.stack.append(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise PickleRefused("a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            key = self.decode(key, "a key") if isinstance(key, PickleText) else key
            if type(key) not in (str, int):
                raise PickleRefused(f"a {type(key).__name__} as a key")
            if key in target:
                raise PickleRefused(f"the key {key!r} is given twice")
            target[key] = value

    def global_(self, module: str, name: str) -> None:
        known = GLOBALS.get(f"{module} {name}")
        if known is None:
            called = f"{module}.{name}"[:80]
            raise PickleRefused(f"it names {called!a}, which no checkpoint needs")
        self.stack.append(PickleGlobal(known))

    def global_lines(self) -> None:
        lines = []
        for _ in range(2):
            line = b""
            while not line.endswith(b"\n"):
                line += self.take(1)
                if len(line) > 200:
                    raise PickleRefused("a name of over 200 bytes")
            lines.append(line[:-1].decode("utf-8"))
        self.global_(*lines)

    def global_stack(self) -> None:
        name = self.decode(self.pop())
        self.global_(self.decode(self.pop()), name)

    def reduce(self) -> None:
        arguments = self.pop()
        function = self.pop()
        name = function.name if isinstance(function, PickleGlobal) else "an unknown function"
        maker = MAKERS.get(name)
        if maker is None or type(arguments) is not tuple:
            raise PickleRefused(f"it calls {name}")
        try:
            self.stack.append(maker(self, *arguments))
        except (TypeError, ValueError, struct.error):
            raise PickleRefused(f"{name} has arguments that numpy does not write") from None

    def build(self) -> None:
        state = self.pop()
        target = self.pop()
        if isinstance(target, PickleDtype) and target.order is None:
            self.build_dtype(target, state)
        elif isinstance(target, PickleArray) and target.data is None:
            version, shape, dtype, fortran, data = state
            if version != 1 or type(fortran) is not bool:
                raise PickleRefused("an array with a state that numpy does not write")
            fill_array(target, data, dtype, shape, fortran)
        else:
            raise PickleRefused(f"it changes the state of a {kind_name(target)}")
        self.stack.append(target)

    def build_dtype(self, dtype: PickleDtype, state: Any) -> None:
        order = self.decode(state[1], "a byte order")
        if order not in ("<", ">", "|") or state[0] != 3 or state[2:] != (None,) * 3 + (-1, -1, 0):
            raise PickleRefused(
                "a type with fields, of an object or with a state numpy does not write"
            )
        dtype.order = order
