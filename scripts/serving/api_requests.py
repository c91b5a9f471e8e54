"""Requests of /v1/chat/completions and /v1/completions: what is taken, and what is refused."""

from __future__ import annotations

import difflib
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.json_schema import models_json_schema

from kit import json_files
from serving.api_errors import ApiError

# name -> the values that change nothing; any other value is refused rather than ignored
NOT_SUPPORTED: dict[str, tuple] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "echo": (False,), "suffix": ("",), "best_of": (1,),
    "functions": ([],), "function_call": ("none",), "modalities": (["text"],), "audio": (),
    "prediction": (), "web_search_options": (), "store": (False,),
}  # fmt: skip
WITHOUT_EFFECT = ("user", "metadata", "service_tier", "parallel_tool_calls", "reasoning_effort",
                  "verbosity", "safety_identifier", "prompt_cache_key")  # fmt: skip
MOST_ANSWERS = 16
SHOWN = 200  # characters of a wrong name that an answer repeats
MOST_CHANCES = 20  # top_logprobs of a token


class Function(BaseModel):
    name: str
    arguments: str = "{}"


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def text_parts(cls, value: Any) -> Any:
        """[{"type": "text", "text": …}, …] -> the texts together."""
        if not isinstance(value, list):
            return value
        for part in value:
            if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise ValueError(f"parts of type {kind} are not supported, only text")
        return "".join(str(part.get(part["type"], "")) for part in value)

    @model_validator(mode="after")
    def has_content(self) -> ChatMessage:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing")
        return self


class ToolFunction(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")


class Tool(BaseModel):
    type: Literal["function"]
    function: ToolFunction


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class JsonSchema(BaseModel):
    """The schema that answers must satisfy, with `strict: false` too."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: Any = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with type json_schema, and that needs it")
        return self


class GenerationRequest(BaseModel):
    """The fields that both APIs accept."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[str] = Field(default_factory=list, max_length=4)
    n: int = Field(1, ge=1, le=MOST_ANSWERS)
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def one_or_more(cls, value: Any) -> Any:
        """None, a string or strings; each of 1 to 256 characters."""
        listed = [] if value is None else [value] if isinstance(value, str) else value
        for text in listed if isinstance(listed, list) else ():
            if isinstance(text, str) and not 1 <= len(text) <= 256:
                raise ValueError("stop strings have 1 to 256 characters")
        return listed

    @field_validator("n", "stream", mode="before")
    @classmethod
    def null_is_default(cls, value: Any, info) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @model_validator(mode="after")
    def form_is_whole(self) -> GenerationRequest:
        for name, given in (("stop", self.stop), ("tools", getattr(self, "offered", None))):
            if given and self.shaped:
                raise ValueError(f"{name} cannot be combined with a response_format of JSON")
        return self

    @property
    def shaped(self) -> bool:
        """Whether the answer must be JSON."""
        return self.response_format is not None and self.response_format.type != "text"

    @property
    def counted(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(GenerationRequest):
    """A request of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_CHANCES)
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none"] | None = None

    @model_validator(mode="after")
    def chances_are_asked_for(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def limit(self) -> int | None:
        """How many tokens an answer may have; max_tokens is the old name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """How many likeliest tokens are listed beside each; None: no logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def offered(self) -> list[dict[str, Any]] | None:
        """The tools that the template is to show, None for none."""
        if not self.tools or self.tool_choice == "none":
            return None
        return [tool.model_dump(exclude_none=True) for tool in self.tools]

    def plain_messages(self) -> list[dict[str, Any]]:
        """The messages as dicts with the keys that were given; developer means system."""
        messages = [message.model_dump(exclude_none=True) for message in self.messages]
        for message in messages:
            if message["role"] == "developer":
                message["role"] = "system"
        return messages


class CompletionRequest(GenerationRequest):
    """A request of /v1/completions: text, or the ids of tokens; one prompt or several."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=MOST_CHANCES)

    @model_validator(mode="after")
    def not_too_many(self) -> CompletionRequest:
        if len(self.prompts) * self.n > MOST_ANSWERS:
            raise ValueError(f"at most {MOST_ANSWERS} answers a request: prompts times n")
        if any(isinstance(p, list) and any(t < 0 for t in p) for p in self.prompts):
            raise ValueError("the ids of tokens are from 0 on")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt."""
        single = isinstance(self.prompt, str) or all(isinstance(p, int) for p in self.prompt)
        return [self.prompt] if single else self.prompt

    @property
    def limit(self) -> int | None:
        """How many tokens an answer may have."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many likeliest tokens are listed beside each; None: no logprobs."""
        return self.logprobs


AnyRequest = TypeVar("AnyRequest", ChatRequest, CompletionRequest)


def read(body: bytes, kind: type[AnyRequest]) -> AnyRequest:
    """The request in `body`; ApiError 400 that names the first thing wrong."""
    given = read_object(body)
    for name in [key for key in given if key in NOT_SUPPORTED or key in WITHOUT_EFFECT]:
        value = given.pop(name)
        if name in NOT_SUPPORTED and value is not None and value not in NOT_SUPPORTED[name]:
            text = f"{name} is not supported here"
            raise ApiError(400, "unsupported_parameter", text, "leave it out", param=name)
    for name in given.keys() - kind.model_fields.keys():  # pydantic would collect all of them
        raise _unknown(name, kind)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _refusal(error.errors()[0], kind) from None
    except RecursionError:
        raise ApiError(400, "invalid_json", "the body is nested too deep") from None


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; ApiError 400 where there is none."""
    try:
        given = json_files.shallow(body)
    except ValueError as error:
        place = f" (line {error.lineno}, column {error.colno})" if hasattr(error, "lineno") else ""
        raise ApiError(400, "invalid_json", f"the body is not valid JSON{place}") from None
    if not isinstance(given, dict):
        raise ApiError(400, "invalid_json", "the body must be a JSON object")
    return given


def schemas(template: str) -> dict[str, Any]:
    """{name: JSON schema} of all that requests hold; `template` is how they refer to each other."""
    pairs = [(ChatRequest, "validation"), (CompletionRequest, "validation")]
    return models_json_schema(pairs, ref_template=template)[1]["$defs"]


def _unknown(place: str, kind: type[BaseModel]) -> ApiError:
    shown = place if len(place) <= SHOWN else f"{place[:SHOWN]}…"
    similar = difflib.get_close_matches(shown, kind.model_fields, 1)
    hint = f"did you mean {similar[0]}?" if similar else ""
    return ApiError(400, "unknown_parameter", f"unknown parameter {shown}", hint, param=shown)


def _refusal(first: dict[str, Any], kind: type[BaseModel]) -> ApiError:
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(place, kind)
    if first["type"] == "missing":
        return ApiError(400, "missing_required_parameter", f"{place} is missing", param=place)
    words = first["msg"].removeprefix("Value error, ")
    text = f"{place}: {words[:1].lower()}{words[1:]}" if place else words
    return ApiError(400, "invalid_value", text, param=place or None)
