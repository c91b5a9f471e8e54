"""Questions with answers that stand in the text, made without a model.

A sentence that defines something becomes "What is …?"; otherwise the passage's most telling term
is asked about, and the sentences with it answer. Nothing is invented: every answer is a quotation.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from corpus.cleaning import without_blank_ends
from corpus.documents import passages
from corpus.documents.embedders import COMMON
from corpus.rows import Row

_DEFINES = re.compile(
    r"^(?P<subject>(?:(?:The|A|An) )?[\w’'-]+(?: [\w’'-]+){0,5}) "
    r"(?P<verb>is|are|was|were) (?:an? |the |one of |any )\w"
)
_NO_SUBJECT = re.compile(
    r"^(?:It|This|That|There|He|She|They|These|Those|What|Who|Which|We|I|You|Here|Such|Both|Each|"
    r"One|Some|All|Many|Most|Another|Other|His|Her|Their|My|Our|Your|Its|If|When|While|As|But|And|"
    r"In|On|At|For|With|By|From|After|Before|Among|Because|Although|Since|See|Id|Thus|So|Yet|Not|"
    r"No|Nor|How|Why|Where|Also|Then|Now)\b"
)
# Names of two to four words anywhere; of one word only within a sentence, where a capital counts
_NAME = re.compile(
    r"\b(?:The )?([A-Z][\w’'-]+(?: (?:of |the )?[A-Z][\w’'-]+){1,3})|"
    r"(?<=[a-z,;] )([A-Z][a-zà-ÿ][\w’-]+)(?! [A-Z])"
)
_WORD = re.compile(r"(?<![\w’'-])[a-zà-ÿ][a-zà-ÿ-]{4,}(?![\w’'-])")
_LETTERS = re.compile(r"[^\W\d_]")
ASK = [
    "What does “{title}” say about {topic}?",
    "According to “{title}”, what about {topic}?",
    "What can be read about {topic} in “{title}”?",
]
EXPLAIN = [
    "Tell me what “{title}” says about {topic}.",
    "Quote what “{title}” has on {topic}.",
    "Find the part of “{title}” on {topic}.",
]


RAG = "Answer from these passages, in their words:"


class Asked(NamedTuple):
    """A question on a passage, its short answer, and the longer part of the text on its topic."""

    topic: str
    question: str
    answer: str
    instruction: str
    explanation: str


class Terms:
    """How many of the passages contain each term, so that a rare one can be chosen."""

    def __init__(self, texts: Iterable[str]):
        self.passages = 0
        self.seen: Counter[str] = Counter()
        for text in texts:
            self.passages += 1
            self.seen.update(set(_terms(text)))

    def best(self, text: str, title: str) -> str | None:
        """The passage's most telling term: frequent here, rare elsewhere; None for none.

        A word of the title tells nothing: all of the document is about it.
        """
        counts = Counter(term for term in _terms(text) if term not in title)

        def telling(term: str) -> tuple[float, str]:
            rare = math.log((1 + self.passages) / (1 + self.seen[term])) + 0.1
            return (1 + math.log(counts[term])) * rare * (1.5 if " " in term else 1), term

        return max(counts, key=telling, default=None)


def _terms(text: str) -> Iterator[str]:
    """Names of up to four words, and words of five letters or more."""
    yield from (several or single for several, single in _NAME.findall(text))
    yield from (w for w in _WORD.findall(text) if w not in COMMON)


def ask(text: str, title: str, terms: Terms) -> Asked | None:
    """A question on a passage, or None where no sentence of it can answer one."""
    runs = passages.prose(text)
    sentences = [s for run in runs for s in passages.sentences(run) if _whole(s)]
    topic = terms.best("\n".join(sentences), title)
    if topic is None:
        return None
    about = [i for i, s in enumerate(sentences) if topic in s]
    pick = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:4], "big")
    question = ASK[pick % len(ASK)].format(title=title, topic=topic)
    answer = sentences[about[0]]
    for sentence in sentences:
        defined = _DEFINES.match(sentence)
        if defined and not _NO_SUBJECT.match(sentence):
            question, answer = _what(defined), sentence
            topic = re.sub(r"^(?:The|A|An) ", "", defined["subject"])
            about = [i for i, s in enumerate(sentences) if topic in s]
            break
    part = sentences[about[0] : min(about[-1] + 1, about[0] + 5)]
    instruction = EXPLAIN[pick % len(EXPLAIN)].format(title=title, topic=topic)
    return Asked(topic, question, answer, instruction, " ".join(part))


def _what(defined: re.Match) -> str:
    subject = defined["subject"]
    lower = re.match(r"(?:The|A|An) ", subject)
    subject = subject[:1].lower() + subject[1:] if lower else subject
    return f"What {defined['verb']} {subject}?"


def _whole(sentence: str) -> bool:
    """A sentence that can stand alone: it begins and ends like one and is mostly words."""
    letters = len(_LETTERS.findall(sentence))
    return (
        40 <= len(sentence) <= 500
        and sentence[-1] in '.!?”"’)。'
        and (sentence[0].isupper() or sentence[0] in '“"‘«《' or sentence[0] > "\u2e80")
        and letters > 0.6 * len(sentence)
        and not sentence.startswith(("See ", "Id.", "Ibid"))
    )


def rows(asked: Asked, styles: Sequence[str], context: str = "") -> Iterator[Row]:
    """The rows of one question in the wanted styles; `context` is for rag alone."""
    for style in styles:
        messages = {
            "qa": (asked.question, asked.answer),
            "instruction": (asked.instruction, asked.explanation),
            "rag": (f"{context}\n\n{RAG}\n{asked.question}", asked.answer),
        }.get(style)
        if messages is None or (style == "instruction" and asked.explanation == asked.answer):
            continue  # a second row with the same answer would be a near-duplicate
        talk = [
            {"role": "user", "content": messages[0]},
            {"role": "assistant", "content": messages[1]},
        ]
        yield Row(talk, topic=asked.topic)


def halves(passage: str) -> tuple[str, str] | None:
    """A passage cut at the sentence end nearest its middle, or None for a single sentence."""
    ends, at = [], 0
    for sentence in passages.sentences(passage)[:-1]:
        at = passage.index(sentence, at) + len(sentence)
        ends.append(at)
    if not ends:
        return None
    cut = min(ends, key=lambda end: abs(end - len(passage) / 2))
    return without_blank_ends(passage[:cut]), without_blank_ends(passage[cut:])


def continuation(title: str, begin: str, end: str) -> Row:
    """A row that asks for the second half of a passage."""
    ask = f"Continue this passage from “{title}”.\n\n{begin}"
    turns = (("user", ask), ("assistant", end))
    return Row([{"role": role, "content": text} for role, text in turns], topic=title)


def numbered(retrieved: Sequence) -> str:
    """Retrieved passages (store.Passage) as a prompt shows them."""
    lines = []
    for number, passage in enumerate(retrieved, 1):
        page = f", page {passage.page}" if passage.page else ""
        lines.append(f"[{number}] {passage.title}{page}\n{passage.text}")
    return "\n\n".join(lines)
