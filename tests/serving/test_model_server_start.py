"""What the model server refuses to start with, and how it stops."""

import shutil
import signal
import socket
import sys

import pytest

from support import adapter_runs
from support.checkout import ROOT
from support.model_servers import PATIENCE, QUESTION, WEATHER, RunningServer, ask, texts
from support.processes import wait_until


@pytest.mark.remote_env
def test_a_program_of_ones_own_serves_a_version_by_its_folder(work):
    folder = work / "adapters" / "weather-lora" / "v1.0.0"
    options = "port=0, json=True, dtype='float32'"
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "scripts")!r})
from model_server import ModelServer
sys.exit(ModelServer(checkpoint_path={str(folder)!r}, {options}).start())
"""
    with RunningServer(work, words=[sys.executable, "-c", code]) as running:
        assert running.facts["models"] == [WEATHER, "miniature"]
        assert texts(ask(running, "weather-lora", max_tokens=5))
        running.process.send_signal(signal.SIGINT)
        _, err = running.process.communicate(timeout=PATIENCE)
        assert running.process.returncode == 0 and "Traceback" not in err


@pytest.mark.remote_env
def test_sigterm_lets_what_runs_finish_and_a_wrong_token_is_refused(work, tmp_path):
    import httpx
    import openai

    secret = "0123456789abcdef-secret"
    (tmp_path / "token").write_text(secret + "\n")
    (tmp_path / "token").chmod(0o600)
    options = ("--host", "0.0.0.0", "--token-file", str(tmp_path / "token"), "--timeout", "60")
    with RunningServer(work, *options, checkpoints=("endless-lora",)) as running:
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


@pytest.mark.remote_env
def test_what_does_not_finish_in_time_is_cut_off_and_said(work):
    import openai

    with RunningServer(
        work, "--drain", "1", "--timeout", "60", checkpoints=("endless-lora",)
    ) as running:
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
