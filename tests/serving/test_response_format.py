"""Answers that must be JSON, in the engine beside others and through OpenAI's own client."""

import json

import pytest

from support.engine_desk import Desk, lora_model
from support.model_servers import QUESTION, TOOLS, WEATHER, ask, texts

pytestmark = pytest.mark.remote_env
SCHEMA = {"type": "object", "additionalProperties": False, "required": ["city", "days", "sunny"],
          "properties": {"city": {"type": "string", "maxLength": 12},
                         "days": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
                         "sunny": {"type": "boolean"}}}  # fmt: skip
FORMAT = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def llama():
    return lora_model("llama")


def grammar(tokenizer, schema=SCHEMA):
    from serving import json_schema
    from serving.token_guide import Grammar, TokenTable

    return Grammar(json_schema.automaton(schema), TokenTable(tokenizer))


def test_guided_rows_of_both_adapters_and_free_ones_share_a_batch(llama):
    jsonschema = pytest.importorskip("jsonschema")
    from serving.token_guide import Guide

    tokenizer, model = llama
    desk, made = Desk(tokenizer, model), grammar(tokenizer)
    free = [desk.answer([11, 12, 13], name, tokens=60) for name in ("a0", "a1")]
    desk.engine.submit(free)
    desk.finish(free)
    alone = {answer.adapter: answer.tokens for answer in free}
    free = [desk.answer([11, 12, 13], name, tokens=60) for name in ("a0", "a1")]
    guided = [
        desk.answer([11, 12, 13], name, tokens=90, guide=Guide(made), temperature=1.2, seed=seed)
        for name in ("a0", "a1", "__base__") for seed in (1, 2)
    ]  # fmt: skip
    desk.engine.submit([*free, *guided])
    ends = desk.finish([*free, *guided])
    assert {answer.adapter: answer.tokens for answer in free} == alone
    assert {ends[answer] for answer in guided} == {"stop"}
    for answer in guided:
        jsonschema.validate(json.loads(desk.text[answer]), SCHEMA)
    assert len({desk.text[answer] for answer in guided}) > 2
    desk.engine.close()


def test_an_answer_that_is_cut_ends_as_length_and_is_a_beginning(llama):
    from serving.token_guide import Guide

    desk = Desk(*llama)
    answer = desk.answer([11, 12], tokens=4, guide=Guide(grammar(llama[0])))
    desk.engine.submit([answer])
    assert desk.finish([answer]) == {answer: "length"}
    assert len(answer.tokens) == 4 and desk.text[answer].lstrip().startswith("{")
    desk.engine.close()


def test_a_guide_that_breaks_ends_its_answer_alone(llama):
    class Broken:
        complete = False

        def allowed(self, ends):
            raise RuntimeError("no way on")

    desk = Desk(*llama)
    innocent = [desk.answer([11 + i, 12], tokens=20) for i in range(3)]
    broken = desk.answer([11], guide=Broken())
    desk.engine.submit([*innocent, broken])
    ends = desk.finish([*innocent, broken])
    assert {ends[answer] for answer in innocent} == {"length"} and ends[broken] == "error"
    assert desk.text[broken] == "no way on" and desk.engine.healthy
    desk.engine.close()


@pytest.mark.slow
def test_the_models_own_end_comes_only_where_the_answer_is_whole(llama):
    """Of a schema whose answers may continue: a number."""
    from serving.token_guide import Guide

    tokenizer, model = llama
    desk, made = Desk(tokenizer, model), grammar(tokenizer, {"type": "integer"})
    answers = [
        desk.answer([11], tokens=30, guide=Guide(made), temperature=1.5, seed=seed,
                    ends=frozenset([0, 5, 40]))
        for seed in range(20)
    ]  # fmt: skip
    desk.engine.submit(answers)
    ends = desk.finish(answers)
    assert set(ends.values()) == {"stop"}
    assert all(isinstance(json.loads(desk.text[answer]), int) for answer in answers)
    desk.engine.close()


@pytest.mark.slow
def test_openais_client_gets_objects_of_the_schema(server):
    jsonschema = pytest.importorskip("jsonschema")
    for model in (WEATHER, TOOLS, "miniature"):
        answer = ask(server, model, response_format=FORMAT, max_tokens=200, n=3, temperature=1,
                     seed=5, logprobs=True)  # fmt: skip
        for choice, text in zip(answer.choices, texts(answer), strict=True):
            assert choice.finish_reason == "stop" and not choice.message.tool_calls
            jsonschema.validate(json.loads(text), SCHEMA)
            assert "".join(token.token for token in choice.logprobs.content) == text
    free = texts(ask(server))
    chunks = list(ask(server, response_format=FORMAT, max_tokens=200, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert texts(ask(server, response_format={"type": "text"})) == free
    prompts = server.client().completions.create(
        model=WEATHER,
        prompt=["The weather: ", "Oslo"],
        max_tokens=200,
        temperature=0,
        extra_body={"response_format": FORMAT},
    )
    for choice in prompts.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.text), SCHEMA)
    for seed in range(3):
        answer = ask(server, response_format={"type": "json_object"}, seed=seed, temperature=1,
                     max_tokens=300)  # fmt: skip
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(texts(answer)[0]), dict)


@pytest.mark.slow
def test_a_pydantic_model_is_parsed_by_the_client(server):
    from pydantic import BaseModel

    class Forecast(BaseModel):
        city: str | None
        kinds: list[bool]

    answer = server.client().chat.completions.parse(
        model=WEATHER, messages=QUESTION, temperature=0, response_format=Forecast, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Forecast)


@pytest.mark.parametrize(("asked", "code", "param", "words"), [
    ({"response_format": {"type": "yaml"}}, "invalid_value", "response_format.type", "json_object"),
    ({"response_format": {"type": "json_schema"}}, "invalid_value", "response_format",
     "needs it"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
     "missing_required_parameter", "response_format.json_schema.schema", "is missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "string", "pattern": "a"}}}}, "unsupported_schema",
     "response_format.json_schema.schema.pattern", "is not supported"),
    ({"response_format": {"type": "json_object"}, "stop": "}"}, "invalid_value", None,
     "stop cannot be combined"),
    ({"response_format": {"type": "json_object"}, "tools": [
        {"type": "function", "function": {"name": "f"}}]}, "invalid_value", None,
     "tools cannot be combined"),
    ({"response_format": "json"}, "invalid_value", "response_format", "dictionary"),
], ids=str)  # fmt: skip
def test_a_format_that_cannot_be_held_to_is_refused(server, asked, code, param, words):
    import httpx

    body = {"model": WEATHER, "messages": QUESTION} | asked
    answer = httpx.post(f"{server.url}/chat/completions", json=body, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert words in error["message"]
