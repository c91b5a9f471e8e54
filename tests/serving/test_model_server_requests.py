"""Requests that the server refuses, and clients that leave."""

import json
import socket

import pytest

from support.model_servers import (
    ENDLESS,
    QUESTION,
    WEATHER,
    ask,
    texts,
)
from support.processes import wait_until


@pytest.mark.remote_env
def test_bad_requests_get_one_answer_in_the_apis_own_form(server):
    import httpx
    import openai

    with pytest.raises(openai.BadRequestError) as long:
        ask(server, messages=[{"role": "user", "content": "day " * 4000}])
    assert long.value.code == "context_length_exceeded" and "2048" in long.value.message
    with pytest.raises(openai.BadRequestError) as long:
        ask(server, max_tokens=5000)
    assert long.value.code == "context_length_exceeded"
    lone = b'{"model": "weather-lora", "messages": [{"role": "user", "content": "\\ud800"}]}'
    nameless = b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}'
    odd_key = b'{"model": "m", "\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}'
    path = f"{server.url}/chat/completions"
    json_type = {"content-type": "application/json"}
    for status, code, answer in (
        (400, "invalid_messages", httpx.post(path, content=lone, headers=json_type)),
        (400, "invalid_json", httpx.post(path, content=b"{", headers=json_type)),
        (404, "model_not_found", httpx.post(path, content=nameless, headers=json_type)),
        (400, "unknown_parameter", httpx.post(path, content=odd_key, headers=json_type)),
        (413, "request_too_large", httpx.post(path, content=b" " * (2 << 20), headers=json_type)),
        (415, "unsupported_media_type", httpx.post(path, content=b"{}")),
        (404, "unknown_url", httpx.get(f"{server.url}/nothing")),
        (405, "method_not_allowed", httpx.get(path)),
        (403, "host_not_allowed", httpx.get(f"{server.url}/models", headers={"host": "a.example"})),
        (403, "origin_not_allowed",
         httpx.get(f"{server.url}/models", headers={"origin": "http://a.example"})),
        (403, "origin_not_allowed",
         httpx.get(f"{server.url}/models", headers={"origin": "http://["})),
    ):  # fmt: skip
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code)
        assert set(error) == {"message", "type", "param", "code"}
        assert "access-control-allow-origin" not in answer.headers
    chunks = iter([b" " * (1 << 19)] * 4)
    with pytest.raises((httpx.HTTPStatusError, httpx.TransportError)):
        httpx.post(path, content=chunks, headers=json_type).raise_for_status()


@pytest.mark.remote_env
def test_requests_that_are_refused_are_counted_by_their_status(server):
    import httpx

    def counts():
        labels = (("", "400"), ("", "404"), (WEATHER, "400"))
        return [server.metric(f'tandem_requests_total{{model="{model}",status="{status}"}}')
                for model, status in labels]  # fmt: skip

    before = counts()
    asked = {"messages": QUESTION, "max_tokens": 5000}
    for body in ({}, asked | {"model": "nobody"}, asked | {"model": WEATHER}):
        assert httpx.post(f"{server.url}/chat/completions", json=body).status_code in (400, 404)
    assert counts() == [n + 1 for n in before]


@pytest.mark.remote_env
def test_too_many_requests_get_429_and_those_let_in_are_answered(server):
    import openai

    client = server.client()
    streams = []
    for gauge in ("tandem_answers_running", "tandem_answers_waiting"):
        for count in range(1, 5):
            streams.append(
                client.chat.completions.create(
                    model=ENDLESS, messages=QUESTION, temperature=0, max_tokens=600, stream=True
                )
            )
            wait_until(lambda name=gauge, answers=count: server.metric(name) == answers)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(server, max_tokens=1)
    assert server.metric(f'tandem_requests_total{{model="{WEATHER}",status="429"}}') == 1
    assert int(refused.value.response.headers["retry-after"]) >= 1
    for stream in streams[:4]:
        stream.close()
    for stream in streams[4:]:  # those that waited have their turn
        assert any(chunk.choices[0].delta.content for chunk in stream)
    assert texts(ask(server))


@pytest.mark.remote_env
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_generation(server, stream):
    import httpx

    gone = f'tandem_requests_total{{model="{ENDLESS}",status="499"}}'
    before = server.metric(gone)
    made = server.metric(f'tandem_completion_tokens_total{{model="{ENDLESS}"}}')
    body = {"model": ENDLESS, "messages": QUESTION, "max_tokens": 1900, "stream": stream,
            "temperature": 0}  # fmt: skip
    sent = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    text = json.dumps(body)
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port)) as connection:
        head = f"{sent}{len(text)}\r\nContent-Type: application/json\r\n\r\n"
        connection.sendall((head + text).encode())
        wait_until(lambda: server.metric("tandem_answers_running") == 1)
    wait_until(lambda: server.metric(gone) == before + 1)
    wait_until(lambda: server.metric("tandem_answers_running") == 0)
    assert server.metric(f'tandem_completion_tokens_total{{model="{ENDLESS}"}}') - made < 1900
