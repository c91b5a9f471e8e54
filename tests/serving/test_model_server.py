"""The server as users run it, driven by OpenAI's own client; and how it refuses to start."""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from base_model import chat_template
from support import adapter_runs, served_models
from support.checkout import ROOT
from support.processes import wait_until

remote = pytest.mark.remote_env
SERVER = str(ROOT / "scripts" / "model_server.py")
PATIENCE = 120
QUESTION = [{"role": "user", "content": "Weather in Oslo on day 3?"}]
WEATHER, TOOLS, ENDLESS = "weather-lora@v1.0.0", "tool-lora@v1.0.0", "endless-lora@v1.0.0"


class Running:
    """A server process; `url` is what it printed when it was ready."""

    def __init__(self, work, *options, checkpoints=served_models.NAMES, words=None):
        chosen = [word for name in checkpoints for word in ("--checkpoint", name)]
        usual = [sys.executable, SERVER, *chosen, "--port", "0", "--json", "--dtype", "float32"]
        words = words or usual
        env = os.environ | {"TANDEM_WORKDIR": str(work), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*words, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.facts = json.loads(line)
        self.url = self.facts["url"]
        self.root = self.url.removesuffix("/v1")

    def client(self, **options):
        import openai

        options = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE} | options
        return openai.OpenAI(base_url=self.url, **options)

    def metric(self, name):
        import httpx

        found = re.search(
            rf"^{re.escape(name)} (\S+)$", httpx.get(f"{self.root}/metrics").text, re.M
        )
        return float(found[1]) if found else 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A base with three adapters, registered."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("served")
    served_models.build(folder)
    return folder


@pytest.fixture(scope="module")
def server(work):
    """The server that most tests ask: four answers at once, four may wait."""
    with Running(work, "--rows", "4", "--queue", "4") as running:
        yield running


def ask(server, model=WEATHER, messages=QUESTION, temperature=0, **options):
    client = server.client()
    return client.chat.completions.create(
        model=model, messages=messages, temperature=temperature, **options
    )


def texts(answer):
    return [choice.message.content for choice in answer.choices]


# --- answers ------------------------------------------------------------------------------
@remote
def test_the_models_are_the_adapters_and_their_base(server):
    import openai

    client = server.client()
    listed = client.models.list().data
    assert [model.id for model in listed] == [WEATHER, TOOLS, ENDLESS, "miniature"]
    assert client.models.retrieve("weather-lora").id == WEATHER
    for name in ("weather-lora@^1.0", "weather-lora@latest", "models/miniature"):
        assert client.models.retrieve(name).id in (WEATHER, "miniature")
    with pytest.raises(openai.NotFoundError, match="did you mean weather-lora@v1.0.0"):
        ask(server, "weater-lora")
    with pytest.raises(openai.NotFoundError):
        ask(server, "weather-lora@v9.0.0")


@remote
def test_answers_are_those_of_the_version_loaded_by_itself(server, work):
    import torch

    from checkpoint_manager import CheckpointManager

    loaded = CheckpointManager(work / "adapters").load_checkpoint(
        WEATHER, base=work / "models" / "miniature", dtype="float32"
    )
    model, tokenizer, _ = loaded
    text = chat_template.render(tokenizer, QUESTION, prompt=True)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False
        )
    new = out[0, ids.shape[1] :]
    answer = ask(server)
    assert answer.model == WEATHER and answer.system_fingerprint.startswith("fp_")
    assert texts(answer) == [tokenizer.decode(new, skip_special_tokens=True)]
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (ids.shape[1], len(new))


@remote
def test_a_stream_is_the_same_answer_in_pieces_with_its_usage(server):
    whole = ask(server, ENDLESS, max_tokens=30)
    chunks = list(
        ask(server, ENDLESS, max_tokens=30, stream=True, stream_options={"include_usage": True})
    )
    spoken = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(spoken) == texts(whole)[0] and len([s for s in spoken if s]) > 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@remote
def test_both_names_of_the_limit_and_stop_strings_end_an_answer(server):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(server, ENDLESS, **{name: 7})
        assert answer.usage.completion_tokens == 7
        assert answer.choices[0].finish_reason == "length"
    answer = ask(server, ENDLESS, max_tokens=40, stop=["y on d", "never"])
    assert texts(answer)[0].endswith("da") and "y on d" not in texts(answer)[0]
    assert answer.choices[0].finish_reason == "stop"


@remote
def test_a_seed_gives_the_same_answers_alone_and_in_a_crowd(server):
    options = {"temperature": 1.3, "top_p": 0.9, "max_tokens": 12, "n": 3, "seed": 5}
    alone = texts(ask(server, "miniature", **options))
    assert len(set(alone)) > 1
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        crowd = [pool.submit(ask, server, name, max_tokens=20) for name in (ENDLESS, TOOLS)]
        again = texts(ask(server, "miniature", **options))
        assert all(future.result().choices for future in crowd)
    assert again == alone
    assert texts(ask(server, "miniature", **(options | {"seed": 6}))) != alone


@remote
def test_adapters_asked_at_once_give_what_they_give_alone(server):
    names = (WEATHER, TOOLS, ENDLESS, "miniature")
    alone = {name: texts(ask(server, name, max_tokens=30)) for name in names}
    assert len({tuple(said) for said in alone.values()}) >= 3
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            asked = {name: pool.submit(ask, server, name, max_tokens=30) for name in names}
            assert {name: texts(future.result()) for name, future in asked.items()} == alone


@pytest.fixture(scope="module")
def prompt_ids(work):
    """QUESTION as the chat template writes it, as token ids."""
    from base_model import chat_template
    from base_model import tokenizer as tokenizers

    tokenizer = tokenizers.load(work / "models" / "miniature")
    text = chat_template.render(tokenizer, QUESTION, prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@remote
def test_a_text_goes_on_as_the_model_itself_writes(server, prompt_ids):
    client = server.client()
    options = {"model": ENDLESS, "temperature": 0, "max_tokens": 12}
    whole = client.completions.create(prompt=prompt_ids, **options)
    assert whole.object == "text_completion" and whole.id.startswith("cmpl-")
    chat = ask(server, ENDLESS, max_tokens=12)
    assert whole.choices[0].text == texts(chat)[0] and whole.usage == chat.usage
    assert whole.choices[0].finish_reason == "length"
    chunks = list(client.completions.create(prompt=prompt_ids, stream=True, **options))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    many = client.completions.create(prompt=[prompt_ids, prompt_ids[:3]], n=2, **options)
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == many.choices[1].text == whole.choices[0].text
    assert many.choices[2].text == many.choices[3].text
    words = client.completions.create(prompt=["It is", "It"], **options)
    assert len(words.choices) == 2 and words.usage.prompt_tokens > 2


@remote
def test_logprobs_are_those_of_the_chosen_tokens(server, prompt_ids):
    import openai

    options = {"temperature": 0, "max_tokens": 8}
    whole = ask(server, ENDLESS, logprobs=True, top_logprobs=3, **options)
    listed = whole.choices[0].logprobs.content
    assert len(listed) == 8 and "".join(t.token for t in listed) == texts(whole)[0]
    for token in listed:
        assert token.top_logprobs[0].token == token.token, "greedy: the likeliest one"
        assert token.logprob == token.top_logprobs[0].logprob <= 0 and len(token.top_logprobs) == 3
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    chunks = list(ask(server, ENDLESS, logprobs=True, stream=True, **options))
    streamed = [t for c in chunks for choice in c.choices if choice.logprobs
                for t in choice.logprobs.content]  # fmt: skip
    assert [(t.token, t.logprob) for t in streamed] == [(t.token, t.logprob) for t in listed]
    assert ask(server, ENDLESS, **options).choices[0].logprobs is None
    client = server.client()
    text = client.completions.create(model=ENDLESS, prompt=prompt_ids, logprobs=2, **options)
    chances = text.choices[0].logprobs
    assert "".join(chances.tokens) == text.choices[0].text
    assert chances.text_offset == [len("".join(chances.tokens[:i])) for i in range(8)]
    assert all(len(top) <= 2 and max(top.values()) == chances.token_logprobs[i]
               for i, top in enumerate(chances.top_logprobs))  # fmt: skip
    with pytest.raises(openai.BadRequestError, match="embedding|knows"):
        client.completions.create(model=ENDLESS, prompt=[10**6], **options)
    with pytest.raises(openai.BadRequestError, match="at most 16"):
        client.completions.create(model=ENDLESS, prompt=["a"] * 9, n=2, **options)


@remote
def test_tool_calls_come_back_as_tool_calls_and_go_in_again(server):
    tools = [served_models.TOOL]
    message = ask(server, TOOLS, tools=tools).choices[0].message
    call = message.tool_calls[0]
    assert call.function.name == "get_weather" and message.content is None
    assert json.loads(call.function.arguments) == {"when": "today"}
    turns = [*QUESTION, message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert ask(server, TOOLS, messages=turns, tools=tools, max_tokens=5).choices
    streamed = [c.choices[0] for c in ask(server, TOOLS, tools=tools, stream=True)]
    calls = [call for c in streamed for call in c.delta.tool_calls or ()]
    assert [c.function.arguments for c in calls] == ['{"when": "today"}']
    assert streamed[-1].finish_reason == "tool_calls"
    assert not any(c.delta.content for c in streamed)
    plain = ask(server, TOOLS, tools=tools, tool_choice="none").choices[0]
    assert not plain.message.tool_calls


@remote
def test_a_program_of_ones_own_serves_a_version_by_its_folder(work):
    folder = work / "adapters" / "weather-lora" / "v1.0.0"
    options = "port=0, json=True, dtype='float32'"
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "scripts")!r})
from model_server import ModelServer
sys.exit(ModelServer(checkpoint_path={str(folder)!r}, {options}).start())
"""
    with Running(work, words=[sys.executable, "-c", code]) as running:
        assert running.facts["models"] == [WEATHER, "miniature"]
        assert texts(ask(running, "weather-lora", max_tokens=5))
        running.process.send_signal(signal.SIGINT)
        _, err = running.process.communicate(timeout=PATIENCE)
        assert running.process.returncode == 0 and "Traceback" not in err


# --- refusals -----------------------------------------------------------------------------
@remote
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
        (400, "invalid_value", httpx.post(path, content=odd_key, headers=json_type)),
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


@remote
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


@remote
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
            wait_until(lambda: server.metric(gauge) == count)  # noqa: B023
    with pytest.raises(openai.RateLimitError) as refused:
        ask(server, max_tokens=1)
    assert server.metric(f'tandem_requests_total{{model="{WEATHER}",status="429"}}') == 1
    assert int(refused.value.response.headers["retry-after"]) >= 1
    for stream in streams[:4]:
        stream.close()
    for stream in streams[4:]:  # those that waited have their turn
        assert any(chunk.choices[0].delta.content for chunk in stream)
    assert texts(ask(server))


@remote
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


# --- its life -----------------------------------------------------------------------------
@remote
def test_sigterm_lets_what_runs_finish_and_a_wrong_token_is_refused(work, tmp_path):
    import httpx
    import openai

    secret = "0123456789abcdef-secret"
    (tmp_path / "token").write_text(secret + "\n")
    (tmp_path / "token").chmod(0o600)
    options = ("--host", "0.0.0.0", "--token-file", str(tmp_path / "token"), "--timeout", "60")
    with Running(work, *options, checkpoints=("endless-lora",)) as running:
        port = httpx.URL(running.url).port
        running.url = f"http://127.0.0.1:{port}/v1"
        assert httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
        for key in ("wrong", secret[:-1], secret + "é"):
            given = httpx.get(
                f"{running.url}/models", headers={b"authorization": f"Bearer {key}".encode()}
            )
            assert given.status_code == 401 and given.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            running.client(api_key="wrong").models.list()
        client = running.client(api_key=secret)
        stream = client.chat.completions.create(
            model="endless-lora", messages=QUESTION, temperature=0, max_tokens=150, stream=True
        )
        next(stream)
        running.process.send_signal(signal.SIGTERM)

        def closed():
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(closed)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "length"
        _, err = running.process.communicate(timeout=PATIENCE)
        assert running.process.returncode == 0 and secret not in err
        assert "Traceback" not in err


@remote
def test_what_does_not_finish_in_time_is_cut_off_and_said(work):
    import openai

    with Running(work, "--drain", "1", "--timeout", "60", checkpoints=("endless-lora",)) as running:
        stream = running.client().chat.completions.create(
            model="endless-lora", messages=QUESTION, temperature=0, max_tokens=2000, stream=True
        )
        next(stream)
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the server is stopping"):
            list(stream)
        _, err = running.process.communicate(timeout=PATIENCE)
        assert running.process.returncode == 1 and "1 requests were cut off after 1 s" in err
        assert "Traceback" not in err


# --- refusals to start: no model is loaded ------------------------------------------------
@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """start(options, fails=CODE): the command in this process, on the version m@v1.0.0."""
    from adapters import register

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    adapter_runs.run(tmp_path)
    register.register(tmp_path / "adapters", "r1", "mapper-lora")
    return adapter_runs.caller("model_server", tmp_path, monkeypatch, capsys)


def test_an_unknown_version_is_answered_with_the_nearest(start, tmp_path):
    assert "did you mean mapper-lora?" in start("--checkpoint", "maper-lora", fails=2).stderr
    done = start("--checkpoint", "mapper-lora@v7.0.0", fails=2)
    assert "has no version v7.0.0; there are: v1.0.0" in done.stderr
    done = start("--checkpoint", tmp_path / "adapters" / "runs", fails=2)
    assert "is not a version's folder" in done.stderr and "register" in done.stderr


def test_a_tampered_file_is_named_and_nothing_is_served(start, tmp_path):
    file = tmp_path / "adapters" / "mapper-lora" / "v1.0.0" / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    adapter_runs.rewrite(file, bytes(data))
    done = start("--checkpoint", "mapper-lora", fails=1)
    assert "adapter_model.safetensors: its SHA-256 is" in done.stderr and not done.stdout


def test_an_adapter_of_another_base_is_refused(start, tmp_path):
    adapter_runs.base(tmp_path / "models" / "other", seed=9)
    done = start("--checkpoint", "mapper-lora", "--base", "models/other", fails=1)
    assert "not the base model of mapper-lora@v1.0.0" in done.stderr
    shutil.rmtree(tmp_path / "models" / "tiny")
    done = start("--checkpoint", "mapper-lora", fails=1)
    assert "--base PATH" in done.stderr


def test_without_a_checkpoint_the_only_adapter_is_meant(start, tmp_path):
    from adapters import register

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: address already in use" in start("--port", port, fails=1).stderr
    register.register(tmp_path / "adapters", "r1", "other-lora")
    done = start(fails=2)
    assert "which adapter?" in done.stderr and "mapper-lora, other-lora" in done.stderr


def test_other_addresses_need_a_token_that_nobody_else_can_read(start, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("0123456789abcdef")
    file.chmod(0o644)
    open_to_all = ("--host", "0.0.0.0", "--port", "0")
    assert "no token is set" in start(*open_to_all, fails=2).stderr
    assert f"chmod 600 {file}" in start(*open_to_all, "--token-file", file, fails=2).stderr
    file.chmod(0o600)
    file.write_text("short")
    assert "no token of 16" in start(*open_to_all, "--token-file", file, fails=2).stderr
    monkeypatch.setenv("TANDEM_SERVER_TOKEN", "")
    assert "no token of 16" in start(*open_to_all, fails=2).stderr


@pytest.mark.parametrize(
    "options",
    [("--rows", "0"), ("--timeout", "nan"), ("--port", "70000"), ("--max-length", "-1")],
)
def test_wrong_numbers_are_refused(start, options):
    assert options[0] in start(*options, fails=2).stderr
