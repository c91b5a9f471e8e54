"""vLLM as the engine: our names, checks, errors and token before it. The program is a stand-in."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import adapter_runs
from support.checkout import ROOT
from support.processes import wait_until

pytestmark = pytest.mark.remote_env
STAND_IN = ROOT / "tests" / "support" / "stand_in_vllm.py"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Two versions on one base, and a `vllm` on the PATH."""
    from adapters import register

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    for name in ("one", "two"):
        adapter_runs.run(tmp_path, name)
        register.register(tmp_path / "adapters", name, f"{name}-lora")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    script = f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n'
    (bin_ / "vllm").write_text(script)
    (bin_ / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    return tmp_path


class Front:
    """The server as a process, with --engine vllm."""

    def __init__(self, *options, **env):
        words = [sys.executable, str(ROOT / "scripts" / "model_server.py"), "--engine", "vllm",
                 "--port", "0", "--json", *options]  # fmt: skip
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, env=os.environ | env)  # fmt: skip
        line = self.process.stdout.readline()
        assert line or "FAIL" in env, self.process.communicate()[1]
        self.facts = json.loads(line) if line else {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def post(self, path="/chat/completions", **body):
        import httpx

        asked = {"messages": [{"role": "user", "content": "Hi"}]} | body
        return httpx.post(self.facts["url"] + path, json=asked, timeout=60)


BOTH = ("--checkpoint", "one-lora", "--checkpoint", "two-lora")


def test_requests_are_handed_on_under_our_names_and_come_back(work):
    import httpx

    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    with Front(*BOTH, "--max-length", "512", "--rows", "7") as front:
        assert front.facts["models"] == ["one-lora@v1.0.0", "two-lora@v1.0.0", "tiny"]
        answer = front.post(model="two-lora@^1.0", response_format=schema, logprobs=True)
        inner = json.loads(answer.json()["choices"][0]["message"]["content"])
        assert inner["asked"]["model"] == "two-lora@v1.0.0", "the exact version"
        assert inner["asked"]["response_format"] == schema and inner["asked"]["logprobs"] is True
        words = inner["words"]
        for pair in (("serve", str(work / "models" / "tiny")), ("--max-num-seqs", "7"),
                     ("--served-model-name", "tiny"), ("--max-model-len", "512")):  # fmt: skip
            assert words[words.index(pair[0]) + 1] == pair[1]
        assert f"one-lora@v1.0.0={work}/adapters/one-lora/v1.0.0" in words
        assert not any("key" in word for word in words), "the key is in no argument"
        streamed = front.post(model="one-lora", stream=True)
        assert "one-lora@v1.0.0" in streamed.text and streamed.text.endswith("data: [DONE]\n\n")
        listed = httpx.get(f"{front.facts['url']}/models").json()["data"]
        assert {m["max_model_len"] for m in listed} == {4096}
        front.process.send_signal(signal.SIGTERM)
        _, errors = front.process.communicate(timeout=60)
        assert front.process.returncode == 0 and "Traceback" not in errors


def test_errors_have_our_form_and_a_dead_engine_is_said(work):
    import httpx

    with Front(*BOTH, "--timeout", "1") as front:
        for status, code, body in (
            (404, "model_not_found", {"model": "nobody"}),
            (400, "missing_required_parameter", {}),
            (400, "refused_by_engine", {"model": "tiny", "temperature": 9}),
            (504, "timeout", {"model": "tiny", "temperature": 7}),
            (503, "not_ready", {"model": "tiny", "temperature": 8}),
        ):
            answer = front.post(**body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        root = front.facts["url"].removesuffix("/v1")
        wait_until(lambda: httpx.get(f"{root}/health").status_code == 500)
        assert httpx.get(f"{root}/ready").status_code == 503
        metrics = httpx.get(f"{root}/metrics").text
        assert 'tandem_requests_total{model="tiny",status="504"} 1' in metrics


def test_a_vllm_that_does_not_start_ends_the_server_in_words(work):
    with Front("--checkpoint", "one-lora", FAIL="1") as front:
        _, errors = front.process.communicate(timeout=60)
        assert front.process.returncode == 1 and "Traceback" not in errors
        assert "vLLM ended with exit code 1" in errors.splitlines()[-1]


def test_what_vllm_cannot_serve_is_refused_before_anything_starts(work, monkeypatch):
    from adapters import register
    from kit import console
    from serving import model_catalog, vllm_front
    from setup import vllm_check

    adapter = register.register(work / "adapters", "one", "fine-lora")
    catalog = model_catalog.check([adapter], None, model_catalog.BaseOptions())
    assert "--enable-lora" in vllm_front.words(catalog, 1, 2, None)
    asked = {word for word in vllm_front.words(catalog, 1, 2, 3) if word.startswith("--")}
    assert asked <= set(vllm_check.CALL), "make setup-serve asks vLLM whether it takes each"
    monkeypatch.setattr(vllm_front.vllm, "RANKS", (1,))
    with pytest.raises(console.Problem, match="--format merged --output DIR, or --engine own"):
        vllm_front.words(catalog, 1, 2, None)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(vllm_front.paths, "ROOT", Path("/nowhere"))
    with pytest.raises(console.Misuse, match="no vllm on the PATH"):
        vllm_front.words(catalog, 1, 2, None)
