"""Every row format of the field, read into Row: see `FORMATS` for the keys that tell them apart.

messages (OpenAI, TRL) · ShareGPT with tool calls · prompt/completion · Alpaca · self-instruct ·
question/answer (SQuAD, TriviaQA) · preference (DPO, HH, UltraFeedback, paired, OpenAI) · KTO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from corpus import learning_keys
from corpus.answers import answers_key, references_of
from corpus.fields import NOTHING, Fields, is_empty, kind_of
from corpus.messages import messages_of, tools_of, written_out
from corpus.rows import BadRow, Message, Row
from corpus.transcripts import open_transcript, transcript, whole_transcript

Record = dict[str, Any]
_ANSWERS = ("completion", "response", "answer", "output")
_TALKS = ("messages", "conversations", "conversation")
_SYSTEM = ("system", "system_prompt")
_CONTEXT = ("input", "context", "passage")
_PAIRS = (("chosen", "rejected"), ("response_j", "response_k"),
          ("preferred_output", "non_preferred_output"))  # fmt: skip

_LONG = 20  # characters of a prompt with which no two answers begin by chance

# The Alpaca wrapping that some data sets have baked into their prompts
_ALPACA = re.compile(
    r"^Below is an instruction.*?### Instruction:\s*(?P<instruction>.*?)"
    r"(?:\s*### Input:\s*(?P<input>.*?))?\s*### Response:\s*$",
    re.S,
)


def unwrap_alpaca(prompt: str) -> str:
    """The instruction (and input) inside a baked-in Alpaca template; other text as it is."""
    wrapped = _ALPACA.match(prompt)
    return _joined(wrapped["instruction"], wrapped["input"] or "") if wrapped else prompt


def _joined(*texts: str) -> str:
    """The texts that are not blank, with a blank line between them."""
    return "\n\n".join(text for text in texts if text.strip()) or texts[0]


def _talk(prompt: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _with_system(messages: list[Message], f: Fields) -> list[Message]:
    """The messages after the record's own system text. Raises BadRow where there are two."""
    system = f.further_text(*_SYSTEM)
    if not system:
        return messages
    if messages[:1] and messages[0]["role"] == "system":
        if messages[0]["content"].strip() != system.strip():
            raise BadRow("two system messages", "one in the row, another in its first turn")
        return messages
    return [{"role": "system", "content": system}, *messages]


def _prompt_messages(text: str, f: Fields) -> list[Message]:
    """A prompt's text as messages: its transcript, or one user turn with the record's context."""
    turns = transcript(text) or open_transcript(text)
    if turns is None or turns[-1]["role"] != "user":
        text = _joined(unwrap_alpaca(text), *(f.further_text(key) for key in _CONTEXT))
        turns = [{"role": "user", "content": text}]
    before = [m for question, answer in _history(f) for m in _talk(question, answer)]
    return _with_system(before + turns, f)


def _history(f: Fields) -> Iterator[tuple[str, str]]:
    """LLaMA-Factory's earlier turns: [[question, answer], …]."""
    value = [] if "history" not in f else f.take("history")
    if not isinstance(value, list):
        raise BadRow("history is not a list of pairs", kind_of(value))
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow("history is not a list of pairs", str(pair)[:60])
        yield f.text_of(pair[0], "history"), f.text_of(pair[1], "history")


def _answered(prompt: list[Message], answer: str, f: Fields) -> Row:
    """The row of a prompt and one answer, with the reasoning that the record has for it."""
    message: Message = {"role": "assistant", "content": answer}
    for key in learning_keys.REASONING:
        if " " in f.text_of(f.peek(key), key).strip():  # "reasoning": "on" is a setting, not a text
            message[key] = f.text(key)
    row = Row([*prompt, message], tools_of(f.take("tools", "functions")))
    values = [value for key in _CONTEXT if isinstance(value := f.peek(key), str)]
    passages = [value for value in values if value.strip() not in NOTHING]
    row.passage = max(passages, key=len, default="")
    return row


# --- the formats ------------------------------------------------------------------------------


def _from_messages(f: Fields) -> Iterator[Row]:
    key = next((key for key in _TALKS if key in f), "messages")
    messages = _with_system(messages_of(f.take(key), f, key), f)
    yield Row(messages, tools_of(f.take("tools", "functions")))


def _from_prompt(f: Fields) -> Iterator[Row]:
    key = next((key for key in _ANSWERS if key in f), "completion")
    prompt, answer = written_out(f.take("prompt"), "prompt"), written_out(f.take(key), key)
    answer = [answer] if isinstance(answer, dict) else answer
    turns = isinstance(answer, list) and any("role" in t for t in answer if isinstance(t, dict))
    if not isinstance(prompt, list) and not turns:
        asked = _prompt_messages(f.text_of(prompt, "prompt"), f)
        yield _answered(asked, f.text_of(answer, key), f)
        return
    if isinstance(prompt, list):
        before = _with_system(messages_of(prompt, f, "prompt"), f)
    else:
        before = _prompt_messages(f.text_of(prompt, "prompt"), f)
    if not turns:
        yield _answered(before, f.text_of(answer, key), f)
        return
    after = messages_of(answer, f, key)
    yield Row(before + after, tools_of(f.take("tools", "functions")))


def _from_alpaca(f: Fields) -> Iterator[Row]:
    prompt = _prompt_messages(f.text("instruction"), f)
    yield _answered(prompt, f.text(*_ANSWERS), f)


def _from_self_instruct(f: Fields) -> Iterator[Row]:
    instances, instruction = f.take("instances"), f.text("instruction")
    if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
        raise BadRow("instances are not a list of objects", str(instances)[:60])
    for instance in instances:
        inner = Fields(instance, "instances[].")
        prompt = _joined(instruction, inner.further_text("input"))
        yield Row(_with_system(_talk(prompt, inner.text("output")), f))
        learning_keys.refuse(inner)
        f.keep_unused(inner)


def _from_question(f: Fields) -> Iterator[Row]:
    key = answers_key(f, ("answer", "answers", *_ANSWERS)) or "answer"
    references = references_of(f.take(key) if key in f else f.record.get(key), f, key)
    row = _answered(_prompt_messages(f.text("question"), f), references[0], f)
    row.references = references
    f.inner += [f"{key}[1:]"] * (len(references) > 1)
    yield row


def _from_preference(f: Fields) -> Iterator[Row]:
    chosen, rejected = next((p for p in _PAIRS if set(p) <= set(f)), _PAIRS[0])
    prompt = _common_prompt(f)
    alone = not prompt and not any(key in f.left() for key in _TALKS)
    better, worse = (_conversation(f, key, alone) for key in (chosen, rejected))
    key = next((key for key in _TALKS if key in f.left()), None)
    if key:
        prompt = _beside_answers(messages_of(f.take(key), f, key), prompt, better)
    yield _pair(_with_system(prompt, f), better, worse, f)


def _beside_answers(
    talk: list[Message], prompt: list[Message], better: list[Message]
) -> list[Message]:
    """The prompt of a record that has a conversation beside chosen and rejected.

    It is the prompt (LLaMA-Factory), or repeats the whole chosen conversation (UltraFeedback).
    """
    if talk and talk[-1]["role"] == "assistant":
        if not better or not _same(talk[-1], better[-1]):
            raise BadRow("two conversations", "messages do not end with the chosen answer")
        talk = talk[: len(talk) - max(1, len(_tail(better)))]
    if not prompt:
        return talk
    if not _is_part(_asked(prompt), _asked(talk)):
        raise BadRow("two conversations", "messages are not those of the prompt")
    return talk


def _asked(turns: list[Message]) -> list[Message]:
    return [m for m in turns if m["role"] != "system"]


def _tail(answer: list[Message]) -> list[Message]:
    """The turns of an answer after its last user turn."""
    users = [i for i, m in enumerate(answer) if m["role"] in ("user", "system")]
    return answer[users[-1] + 1 :] if users else answer


def _talk_before(answer: list[Message], other: list[Message]) -> list[Message]:
    """The turns before an answer's last ones, where the other is an answer alone."""
    if other[0]["role"] != "assistant" or answer[0]["role"] == "assistant":
        return []
    return answer[: len(answer) - len(_tail(answer))]


def _from_rejected_response(f: Fields) -> Iterator[Row]:
    """ms-swift: a conversation, and beside its last answer a worse one."""
    talk = _with_system(messages_of(f.take("messages"), f), f)
    yield _pair(talk[:-1], talk[-1:], _conversation(f, "rejected_response"), f)


def _pair(prompt: list[Message], better: list[Message], worse: list[Message], f: Fields) -> Row:
    """The preference row of a prompt and two answers, each of which may repeat the prompt."""
    if better and worse:  # where one answer brings the talk before it, it is the other's too
        better, worse = _talk_before(worse, better) + better, _talk_before(better, worse) + worse
    shared: list[Message] = []
    while len(better) > 1 and len(worse) > 1 and _same(better[0], worse[0]):
        shared.append(better[0])  # HH, UltraFeedback: both answers hold the whole conversation
        better, worse = better[1:], worse[1:]
    system = [m for m in prompt[:1] if m["role"] == "system"]
    if shared and _is_part(_asked(prompt), shared):
        prompt = system * (shared[0]["role"] != "system") + shared
    else:
        prompt = prompt + shared
    if not prompt:
        if better and worse and better[0]["role"] == worse[0]["role"] != "assistant":
            raise BadRow("no common prompt", "chosen and rejected begin with different questions")
        raise BadRow("no prompt", "chosen and rejected are answers to nothing")
    _without_prompt(prompt, better, worse)
    row = Row(prompt + better, tools_of(f.take("tools", "functions")))
    row.rejected, row.prompt_turns = worse, len(prompt)
    return row


def _without_prompt(prompt: list[Message], better: list[Message], worse: list[Message]) -> None:
    """Cut the prompt's text off two answers that both repeat it."""
    asked, answers = prompt[-1]["content"].strip(), [turns[0] for turns in (better, worse) if turns]
    texts = [answer["content"].strip() for answer in answers]
    if len(asked) >= _LONG and all(t.startswith(asked) and t != asked for t in texts):
        for answer, text in zip(answers, texts, strict=True):
            answer["content"] = text[len(asked) :].strip()


def _same(one: Message, other: Message) -> bool:
    return one["role"] == other["role"] and one["content"].strip() == other["content"].strip() and (
        one.get("tool_calls") == other.get("tool_calls")
    )  # fmt: skip


def _is_part(turns: list[Message], talk: list[Message]) -> bool:
    """Whether `turns` stand one after another somewhere in `talk`; nothing always does."""
    starts = range(len(talk) - len(turns) + 1)
    return any(all(map(_same, turns, talk[i:])) for i in starts)


def _common_prompt(f: Fields) -> list[Message]:
    """What a preference row names as the prompt of both answers; [] where it names none."""
    if isinstance(f.peek("input"), dict):  # OpenAI's preference rows
        inner = Fields(f.take("input"), "input.")
        messages = messages_of(inner.take("messages"), f, "input.messages")
        if "tools" in inner:
            raise BadRow("tools inside input", "move input.tools to tools")
        f.keep_unused(inner)
        return messages
    value = written_out(f.take("prompt", "question", "instruction"), "prompt")
    if isinstance(value, list):
        return messages_of(value, f, "prompt")
    return [] if value is None else _prompt_messages(f.text_of(value, "prompt"), f)


def _conversation(f: Fields, key: str, alone: bool = False) -> list[Message]:
    """An answer of a preference row: a text, a transcript, a message or a whole conversation.

    alone: the record has no prompt, so that a transcript may have speakers of any name.
    """
    value = written_out(f.take(key), key)
    if isinstance(value, str):
        turns = transcript(value) or (whole_transcript(value) if alone else None)
        return turns or [{"role": "assistant", "content": value}]
    if is_empty(value):
        raise BadRow("no answer", f"{key} is empty")
    return messages_of(value if isinstance(value, list) else [value], f, key)


def _has(*groups: tuple[str, ...]) -> Callable[[set[str]], bool]:
    """Whether a record has a key of each group."""
    return lambda names: all(any(key in names for key in group) for group in groups)


FORMATS: list[tuple[str, Callable[[set[str]], bool], Callable[[Fields], Iterator[Row]]]] = [
    ("preference", lambda names: any(set(pair) <= names for pair in _PAIRS), _from_preference),
    ("preference", _has(("messages",), ("rejected_response",)), _from_rejected_response),
    ("messages", _has(_TALKS), _from_messages),
    ("prompt/completion", _has(("prompt",), _ANSWERS), _from_prompt),
    ("self-instruct", _has(("instruction",), ("instances",)), _from_self_instruct),
    ("Alpaca", _has(("instruction",), _ANSWERS), _from_alpaca),
    ("question/answer", _has(("question",), ("answers", *_ANSWERS)), _from_question),
]


def _fitting(names: set[str]) -> tuple[str, Callable[[Fields], Iterator[Row]]] | None:
    return next(((name, make) for name, fits, make in FORMATS if fits(names)), None)


def format_of(record: Record) -> str | None:
    """The name of the record's format, or None where its keys are of none."""
    fitting = _fitting(set(record))
    return fitting[0] if fitting else None


def rows_of(record: Any) -> list[Row]:
    """The rows of one record. Keys that no row uses are named in the first row's `unused`.

    Raises BadRow where it cannot be understood, Unwanted where it says that it is not to be
    learned (KTO's `label` false, `weight` 0).
    """
    if not isinstance(record, dict):
        raise BadRow("not an object", f"a JSON {type(record).__name__}")
    f = Fields(record)
    fitting = _fitting(set(f)) or _fitting(f.names)
    if fitting is None:
        raise BadRow("unknown row format", f"keys {', '.join(map(str, list(record)[:8]))}")
    name, make = fitting
    rows = list(make(f))
    learning_keys.refuse_unwanted(f)
    topic = f.take("topic") if isinstance(record.get("topic"), str) else None
    learning_keys.refuse(f, name)
    for row in rows:
        row.topic = topic
    if rows:
        rows[0].unused = f.unused()
    return rows
