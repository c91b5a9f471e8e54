"""Which tokens may come next in an answer that must be JSON of a known shape.

A Guide belongs to one answer: allowed() gives the mask over its vocabulary, take(token) goes on.
A mask is found by walking the sorted tokens with the automaton. Inside a string plain characters
are not walked: a token of nothing else, as most are, comes in as long as there is room, and of
the others only what follows their plain beginning is walked. States and masks are kept with the
grammar, so a second answer of the same shape finds them there.
"""

from __future__ import annotations

import bisect
import collections
import json
import re
from collections.abc import Iterable
from typing import Any

from serving.json_grammar import CHARACTER, DEPTH, Automaton

MOST_KEPT = 20_000  # states that are kept with a grammar
PLAIN = re.compile(rb'[^\x00-\x1f"\\]*')  # the characters that a string holds as they are
LETTER = 0x61  # any of them
BLANK = "\u2581"  # what SentencePiece writes for one
BYTE_TOKEN = "<0x{:02X}>"
SAMPLE = '{"a b": [1, -2.5e+3, true, null], "c": {"d": "e\\n\\u00e9"}}'


def letters_of_bytes() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


class TokenTable:
    """The bytes of every token of a tokenizer that may stand in text, sorted.

    Raises ValueError for a tokenizer whose tokens are not pieces of the text's bytes.
    """

    def __init__(self, tokenizer: Any):
        self.size = len(tokenizer)
        backend = tokenizer.backend_tokenizer
        pieces = self._pieces(tokenizer, backend)
        special = set(tokenizer.all_special_ids)
        special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        texts = backend.decode_batch([[i] for i in range(self.size)], skip_special_tokens=False)
        kept = [(piece, i) for i, piece in enumerate(pieces)
                if i not in special and piece and _same(piece, texts[i])]  # fmt: skip
        self.pieces = {i: piece for piece, i in kept}
        self._check(tokenizer, self.pieces)
        self._sort(kept)

    def _sort(self, kept: list[tuple[bytes, int]]) -> None:
        """Sort the tokens: all, and by what follows their plain characters."""
        import torch

        lengths, others = [0] * self.size, collections.defaultdict(list)
        for piece, i in kept:
            begin = _plain_beginning(piece)
            if len(begin.encode()) == len(piece):
                lengths[i] = len(begin)
            else:
                others[len(begin)].append((piece[len(begin.encode()) :], i))
        self._lengths = torch.tensor(lengths)
        self._all = _Sorted(kept)
        self._after = {count: _Sorted(ends) for count, ends in others.items()}
        self._after_any = _Sorted(end for ends in others.values() for end in ends)

    def mask(self, room: float, inside: GrammarState | None, outside: GrammarState | None) -> Any:
        """What may follow: booleans [vocabulary].

        inside: the threads in a string that takes `room` more characters; outside: the others.
        """
        mask = (self._lengths > 0) & (self._lengths <= room)
        if outside:
            mask[self._all.taken(outside)] = True
        if inside and inside.step(LETTER) is inside:
            mask[self._after_any.taken(inside)] = True
        elif inside:
            states = [inside]
            while states[-1] and len(states) <= max(self._after, default=0):
                states.append(states[-1].step(LETTER))
            for count, tokens in self._after.items():
                if count < len(states) and states[count]:
                    mask[tokens.taken(states[count])] = True
        return mask

    @staticmethod
    def _pieces(tokenizer: Any, backend: Any) -> list[bytes]:
        """The bytes that each token stands for, by what its decoder does."""
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        decoder = backend.decoder.__getstate__() if backend.decoder else b"null"
        kinds = json.dumps(json.loads(decoder), ensure_ascii=False)
        if '"ByteLevel"' in kinds:
            table = letters_of_bytes()
            return [
                bytes(table[c] for c in name) if name and all(c in table for c in name)
                else (name or "").encode(errors="replace")
                for name in names
            ]  # fmt: skip
        single = {BYTE_TOKEN.format(byte): bytes([byte]) for byte in range(256)}
        single = single if '"ByteFallback"' in kinds else {}
        blank = BLANK if BLANK in kinds else " "
        return [
            single.get(name) or (name or "").replace(blank, " ").encode(errors="replace")
            for name in names
        ]

    @staticmethod
    def _check(tokenizer: Any, pieces: dict[int, bytes]) -> None:
        ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
        text = b"".join(pieces.get(i, b"") for i in ids)
        if text.decode(errors="replace").strip() != SAMPLE:
            raise ValueError("its tokens are not pieces of the text")


def _same(piece: bytes, text: str) -> bool:
    """Whether a token alone is decoded as its bytes say; a blank before it may be left out."""
    try:
        own = piece.decode()
    except UnicodeDecodeError:
        return "\ufffd" in text
    return text in (own, own.removeprefix(" "))


def _plain_beginning(piece: bytes) -> str:
    """The whole characters at its beginning that a string of JSON holds as they are."""
    begin = PLAIN.match(piece)[0]
    try:
        return begin.decode()
    except UnicodeDecodeError as error:
        return begin[: error.start].decode()


class _Sorted:
    """Tokens by their bytes, and which of them a state takes whole."""

    def __init__(self, tokens: Iterable[tuple[bytes, int]]):
        by_piece = collections.defaultdict(list)
        for piece, i in tokens:
            by_piece[piece].append(i)
        self.pieces = sorted(by_piece)
        self.ids = [by_piece[piece] for piece in self.pieces]

    def taken(self, state: GrammarState) -> list[int]:
        """The ids of the tokens after which JSON of the right shape can still go on."""
        taken: list[int] = []
        open_ = [(state, 0, len(self.pieces), 0)]
        while open_:
            state, begin, end, depth = open_.pop()
            while begin < end and len(self.pieces[begin]) == depth:
                if depth:
                    taken += self.ids[begin]
                begin += 1
            while begin < end:
                prefix = self.pieces[begin][: depth + 1]
                above = prefix[:-1] + bytes([prefix[-1] + 1]) if prefix[-1] < 255 else None
                after = bisect.bisect_left(self.pieces, above, begin, end) if above else end
                following = state.step(prefix[-1])
                if following is not None:
                    open_.append((following, begin, after, depth + 1))
                begin = after
        return taken


Thread = tuple[int, Any]  # a place, and the calls that it returns to: (place, others, depth)


class GrammarState:
    """All that the text so far may be: threads of an automaton."""

    __slots__ = ("final", "following", "grammar", "mask", "threads")

    def __init__(self, grammar: Grammar, threads: frozenset[Thread]):
        self.grammar, self.threads = grammar, threads
        self.final = any(stack is None and place in grammar.automaton.ends
                         for place, stack in threads)  # fmt: skip
        self.following: dict[int, GrammarState | None] = {}
        self.mask: Any = None

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing can follow."""
        return self.final and not any(self.grammar.automaton.bytes[p] for p, _ in self.threads)

    def step(self, byte: int) -> GrammarState | None:
        """After one more byte; None where it may not come."""
        if byte not in self.following:
            places = self.grammar.automaton.bytes
            threads = [
                (end, stack)
                for place, stack in self.threads
                for low, high, end in places[place]
                if low <= byte <= high
            ]
            self.following[byte] = self.grammar.state(threads) if threads else None
        return self.following[byte]


class Grammar:
    """An automaton over one tokenizer's tokens, with the states that answers came through."""

    def __init__(self, automaton: Automaton, table: TokenTable):
        self.automaton, self.table = automaton, table
        self.states: dict[frozenset[Thread], GrammarState] = {}
        self.start = self.state([(automaton.start, None)])

    def state(self, threads: list[Thread]) -> GrammarState:
        """The state of these threads, advanced as far as no byte is needed."""
        automaton, kept, seen = self.automaton, [], set(threads)
        open_ = list(threads)
        while open_:
            place, stack = open_.pop()
            depth = stack[2] if stack else 0
            following = [(end, stack) for end, needs in automaton.free[place]
                         if depth + needs <= DEPTH]  # fmt: skip
            call = automaton.calls[place]
            if call:
                following.append((automaton.entries[call[0]], (call[1], stack, depth + 1)))
            if place in automaton.ends and stack:
                following.append((stack[0], stack[1]))
            if automaton.bytes[place] or (place in automaton.ends and not stack):
                kept.append((place, stack))
            new = [thread for thread in following if thread not in seen]
            seen.update(new)
            open_ += new
        return self._interned(frozenset(kept))

    def _interned(self, threads: frozenset[Thread]) -> GrammarState:
        if len(self.states) > MOST_KEPT:
            self.states.clear()
        if threads not in self.states:
            self.states[threads] = GrammarState(self, threads)
        return self.states[threads]

    def mask(self, state: GrammarState) -> Any:
        """The tokens that may follow `state`: booleans [vocabulary], on the CPU."""
        if state.mask is None:
            rooms = {thread: self._room(*thread) for thread in state.threads}
            inside = frozenset(thread for thread, room in rooms.items() if room)
            outside = state.threads - inside
            state.mask = self.table.mask(max(rooms.values(), default=0),
                                         self._interned(inside) if inside else None,
                                         self._interned(outside) if outside else None)  # fmt: skip
        return state.mask

    def _room(self, place: int, stack: Any) -> float:
        """How many characters may come inside a string, for a thread that awaits one."""
        if place == self.automaton.entries[CHARACTER] and stack:
            return self.automaton.room.get(stack[0], 0.0)
        return 0.0


class Guide:
    """The place of one answer in a grammar; `take` advances it by a token."""

    def __init__(self, grammar: Grammar):
        self._grammar, self._state = grammar, grammar.start

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return self._state.complete

    def allowed(self, ends: Iterable[int]) -> Any:
        """The tokens that may come next: booleans [vocabulary]; `ends` where it may end."""
        mask = self._grammar.mask(self._state).clone()
        mask[[i for i in ends if i < len(mask)]] = self._state.final
        if not mask.any():
            raise ValueError("no token of the model fits response_format here")
        return mask

    def take(self, token: int) -> None:
        """Advance by a token that was allowed."""
        state: GrammarState | None = self._state
        for byte in self._grammar.table.pieces[token]:
            state = state.step(byte) if state else None
        if state is None:
            raise ValueError("a token came that response_format does not allow")
        self._state = state
