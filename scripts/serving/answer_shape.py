"""The guides of answers whose request has a response_format: JSON objects, or JSON of a schema."""

from __future__ import annotations

import collections
import json
from typing import TYPE_CHECKING, Any

from serving import json_schema
from serving.api_errors import ApiError
from serving.token_guide import Grammar, Guide, TokenTable

if TYPE_CHECKING:
    from serving.api_requests import ResponseFormat
    from serving.model_catalog import Served

MOST_GRAMMARS = 64  # schemas whose automata and masks are kept


class AnswerShapes:
    """Makes the guides of one server, and keeps what answers of the same shape share."""

    def __init__(self) -> None:
        self._tables: dict[str, TokenTable] = {}
        self._grammars: collections.OrderedDict[tuple[str, str], Grammar] = (
            collections.OrderedDict()
        )

    def grammar(self, wanted: ResponseFormat, served: Served) -> Grammar:
        """The grammar of a request's answers; ApiError 400 for a schema that is not supported.

        Takes up to a second for a model's first: call it outside the event loop.
        """
        schema = wanted.json_schema.schema_ if wanted.json_schema else None
        try:
            key = served.id, json.dumps(schema) if wanted.json_schema else ""
        except RecursionError:
            raise ApiError(400, "invalid_json", "the schema is nested too deep") from None
        if key not in self._grammars:
            try:
                automaton = json_schema.automaton(schema, anything=wanted.json_schema is None)
            except json_schema.SchemaRefused as refused:
                raise ApiError(
                    400, "unsupported_schema", str(refused), "docs/SERVING.md lists what is taken",
                    param=f"response_format.json_schema.{refused.place}",
                ) from None  # fmt: skip
            self._grammars[key] = Grammar(automaton, self._table(served))
        self._grammars.move_to_end(key)
        while len(self._grammars) > MOST_GRAMMARS:
            self._grammars.popitem(last=False)
        return self._grammars[key]

    def _table(self, served: Served) -> TokenTable:
        if served.id not in self._tables:
            try:
                self._tables[served.id] = TokenTable(served.tokenizer)
            except ValueError as why:
                text = f"response_format is not supported by {served.id}: {why}"
                raise ApiError(400, "unsupported_parameter", text,
                               param="response_format") from None  # fmt: skip
        return self._tables[served.id]


def guide_of(grammar: Grammar | None) -> Any:
    """A guide for one more answer; None without a grammar."""
    return None if grammar is None else Guide(grammar)
