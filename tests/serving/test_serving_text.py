"""An answer's text as its tokens come, requests as they are read, numbers for Prometheus."""

import json

import pytest

pytestmark = pytest.mark.remote_env
SAID = "Grüße, 日本 🎉 on day 3. END of it"


@pytest.fixture(scope="module")
def tokenizer():
    from base_model import miniature

    return miniature.build_tokenizer(["on day on day of it"], "llama")


def spoken(tokenizer, text, stop=()):
    """(the pieces, whether it stopped) of `text` coming token by token."""
    from serving.answer_text import AnswerText

    pieces, growing = [], AnswerText(tokenizer, list(stop))
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        growing.add(token)
        pieces.append(growing.take())
        if growing.stopped:
            break
    growing.finish()
    return [*pieces, growing.take()], growing.stopped


def test_pieces_are_whole_characters_and_together_the_text(tokenizer):
    pieces, stopped = spoken(tokenizer, SAID + "<|eot_id|>")
    assert "".join(pieces) == SAID and not stopped
    assert "日" in pieces and not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_are_shown_at_the_end(tokenizer):
    from serving.answer_text import AnswerText

    ids = tokenizer("ok 🎉", add_special_tokens=False)["input_ids"]
    text = AnswerText(tokenizer, [])
    for token in ids[:-1]:
        text.add(token)
    assert text.take() == "ok "
    text.finish()
    assert text.take() == "\ufffd"


@pytest.mark.parametrize("stop", [["END"], ["nothing", "END of"], ["E", "ND"], [" END"]])
def test_a_stop_string_cuts_the_text_wherever_tokens_end(tokenizer, stop):
    pieces, stopped = spoken(tokenizer, SAID, stop)
    first = min(SAID.find(s) for s in stop if s in SAID)
    assert stopped and "".join(pieces) == SAID[:first]


def test_what_may_become_a_stop_string_is_held_back_and_sent_when_it_does_not(tokenizer):
    pieces, stopped = spoken(tokenizer, SAID, ["of itself"])
    assert not stopped and "".join(pieces) == SAID
    assert pieces[-1] == "of it"


def body(**changes):
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | changes
    return json.dumps(asked).encode()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"{nope", "not valid JSON (line 1, column 2)"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (body(temprature=1), "unknown parameter temprature; did you mean temperature?"),
        (body(**{"\ud800": 1}), "unknown parameter \\ud800"),
        (body(**{"x" * 900_000: 1}), f"unknown parameter {'x' * 200}…"),
        (body(messages=[]), "messages: "),
        (b'{"messages": []}', "model is missing"),
        (body(temperature=3), "temperature: "),
        (body(temperature=float("nan")), "temperature: "),
        (body(max_tokens=0), "max_tokens: "),
        (body(n=17), "n: "),
        (body(stop=[""]), "stop: stop strings have 1 to 256 characters"),
        (body(stop=["a"] * 5), "stop: "),
        (body(tool_choice="required"), "tool_choice: "),
        (body(top_logprobs=3), "top_logprobs needs logprobs: true"),
        (body(logprobs=True, top_logprobs=21), "top_logprobs: "),
        (body(logit_bias={"5": 1}), "logit_bias is not supported here"),
        (body(response_format={"type": "json_schema", "json_schema": {}}), "name is missing"),
        (body(response_format={"type": "json_object"}, stop="}"), "stop cannot be combined"),
        (body(messages=[{"role": "robot", "content": "x"}]), "messages.0.role: "),
        (body(messages=[{"role": "user"}]), "content is missing"),
        (body(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "only text"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_wrong(wrong, words):
    from serving import api_requests
    from serving.api_errors import ApiError

    with pytest.raises(ApiError) as refused:
        api_requests.read(wrong, api_requests.ChatRequest)
    error = refused.value.body["error"]
    assert refused.value.status == 400 and words in error["message"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"]
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
    assert len(str(error)) < 1000


def test_what_changes_nothing_is_taken_and_parts_become_text():
    from serving import api_requests

    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
    echoed = {"role": "assistant", "content": "Yes", "refusal": None, "annotations": [],
              "tool_calls": None}  # fmt: skip
    asked = api_requests.read(
        body(
            messages=[{"role": "developer", "content": parts}, echoed],
            presence_penalty=0,
            logit_bias=None,
            user="me",
            n=None,
            stream=None,
            stop=None,
            max_tokens=5,
            max_completion_tokens=7,
            response_format={"type": "text"},
        ),
        api_requests.ChatRequest,
    )
    assert asked.plain_messages() == [
        {"role": "system", "content": "Hi there"}, {"role": "assistant", "content": "Yes"}
    ]  # fmt: skip
    assert asked.limit == 7 and asked.n == 1 and asked.stop == []


def test_metrics_are_in_the_text_format():
    from serving.prometheus import ServingMetrics

    numbers = ServingMetrics()
    for status in ("200", "200", "429"):
        numbers.count("tandem_requests_total", model='a"b\\c', status=status)
    numbers.observe("tandem_request_seconds", 0.03, model="m")
    numbers.observe("tandem_request_seconds", 400, model="m")
    lines = numbers.text(tandem_ready=1).splitlines()
    assert 'tandem_requests_total{model="a\\"b\\\\c",status="200"} 2' in lines
    assert 'tandem_request_seconds_bucket{model="m",le="0.025"} 0' in lines
    assert 'tandem_request_seconds_bucket{model="m",le="0.05"} 1' in lines
    assert 'tandem_request_seconds_bucket{model="m",le="+Inf"} 2' in lines
    assert 'tandem_request_seconds_sum{model="m"} 400.03' in lines
    assert lines.count("# TYPE tandem_request_seconds histogram") == 1
    assert "tandem_ready 1" in lines
