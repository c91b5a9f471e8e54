"""Derive a chat template's format by rendering it: the texts before and after each message.

Most templates only put fixed texts around the messages of each role. Those texts are cut out of a
few rendered conversations, assembled again for others, and compared. Equal texts mean that this
is exactly the training format; a template that does more is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from kit import console

Messages = list[dict[str, str]]
Render = Callable[[Messages, bool], str]  # (messages, with the opening of the answer) -> text

SYSTEM, USER, ANSWER, NEXT = "sYsTeM07", "qUeStIoN1", "aNsWeR22", "qUeStIoN3"
PLACES = ("block", "first user", "last user", "none")


@dataclasses.dataclass(frozen=True)
class Format:
    """The texts around messages. `place`: where the system message goes (PLACES)."""

    start: str  # where there is no system message
    place: str
    system: tuple[str, str]  # around the system message; a block's first text includes the start
    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str  # of the answer, after the last user message

    def render(self, messages: Messages) -> str:
        """The conversation up to the opening of the next answer, put together from the texts."""
        texts = {"user": self.user, "assistant": self.assistant}
        system = next((m["content"] for m in messages if m["role"] == "system"), "")
        inline = f"{self.system[0]}{system}{self.system[1]}" if system else ""
        rest = [m for m in messages if m["role"] != "system"]
        out = inline if inline and self.place == "block" else self.start
        for i, message in enumerate(rest):
            before, after = texts[message["role"]]
            here = {"first user": i == 0, "last user": i == len(rest) - 1}.get(self.place, False)
            out += before + (inline if here else "") + message["content"] + after
        return out + self.opening


def find(render: Render) -> Format:
    """The Format of a template. Problem where it has none, with the conversation that differs."""
    try:
        layout = _with_system(render, _without_system(render))
    except (ValueError, IndexError):
        raise _refusal("it does not put fixed texts around messages") from None
    for name, messages in probes(layout.place != "none").items():
        if layout.render(messages) != render(messages, True):
            raise _refusal(f"it treats {name} in its own way")
    return layout


def probes(system: bool) -> dict[str, Messages]:
    """Conversations that a Format must render as the template does."""
    turns = [
        {"role": role, "content": text}
        for role, text in (
            ("user", 'Näive "quotes" {{ and }} {%\n\nlines?'),
            ("assistant", "Plain."),
            ("user", "x"),
            ("assistant", "1. a\n2. b"),
            ("user", "Then?"),
        )
    ]
    first = {"role": "system", "content": "Be brief.\nBe kind."}
    named = {"one question": turns[:1], "three turns": turns[:3], "five turns": turns}
    if system:
        named |= {f"{name} after a system message": [first, *t] for name, t in named.items()}
    return named


def _refusal(why: str) -> console.Problem:
    return console.Problem(
        f"the chat template cannot become an Ollama template: {why}",
        "serve the version with scripts/model_server.py or vLLM, or export --format merged",
    )


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _after(text: str, prefix: str) -> str:
    """`text` without `prefix`; ValueError if it does not begin with it."""
    if not text.startswith(prefix):
        raise ValueError
    return text[len(prefix) :]


def _without_system(render: Render) -> Format:
    question, answer, more = _turn("user", USER), _turn("assistant", ANSWER), _turn("user", NEXT)
    asked = render([question], False)
    answered = render([question, answer], False)
    both = render([question, answer, more], True)
    opening = _after(render([question], True), asked)
    user_after = asked.split(USER)[1]
    answer_before = _after(answered.split(USER)[1].split(ANSWER)[0], user_after)
    answer_after = answered.split(ANSWER)[1]
    user_before = _after(both.split(ANSWER)[1].split(NEXT)[0], answer_after)
    start = asked.split(USER)[0]
    if not start.endswith(user_before):
        raise ValueError
    start = start[: len(start) - len(user_before)]
    user, assistant = (user_before, user_after), (answer_before, answer_after)
    return Format(start, "none", ("", ""), user, assistant, opening)


def _with_system(render: Render, plain: Format) -> Format:
    """`plain` with the place and the texts of the system message."""
    system, question = _turn("system", SYSTEM), _turn("user", USER)
    try:
        text = render([system, question], True)
    except Exception:  # a template's own refusal: this family has no system message
        return plain
    if SYSTEM not in text:
        return plain
    before, rest = text.split(SYSTEM)
    between = rest.split(USER)[0]
    if between.endswith(plain.user[0]) and not before.endswith(plain.start + plain.user[0]):
        after = between[: len(between) - len(plain.user[0])]
        return dataclasses.replace(plain, place="block", system=(before, after))
    inside = _after(before, plain.start + plain.user[0])
    more = [_turn("assistant", ANSWER), _turn("user", NEXT)]
    late = render([system, question, *more], True)
    place = "last user" if late.index(SYSTEM) > late.index(ANSWER) else "first user"
    return dataclasses.replace(plain, place=place, system=(inside, between))
