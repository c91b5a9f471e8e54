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
        if self.process.poll() is None:
            self.process.terminate()  # it ends vLLM, which would keep the pipes open
            self.process.communicate(timeout=60)

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
    with pytest.raises(console.Problem, match="--format merged --output DIR .*or --engine own"):
        vllm_front.words(catalog, 1, 2, None)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(vllm_front.paths, "ROOT", Path("/nowhere"))
    with pytest.raises(console.Misuse, match="no vllm on the PATH"):
        vllm_front.words(catalog, 1, 2, None)


def dora(tensors):
    names = [name for name in tensors if name.endswith("lora_A.weight")]
    vectors = {n.replace("lora_A.weight", "lora_magnitude_vector"): tensors[n][0] ** 2
               for n in names}  # fmt: skip
    return tensors | vectors


def head(tensors):
    import numpy as np

    return tensors | {"base_model.model.lm_head.weight": np.ones((64, 64), "float32")}


@pytest.mark.parametrize(("tensors", "config", "reason", "mergeable"), [
    (dora, {"use_dora": True}, "DoRA", True),
    (head, {"modules_to_save": ["lm_head"]}, "modules_to_save", True),
    (dict, {"bias": "all"}, "trained biases", True),
    (dict, {"lora_bias": True}, "lora_bias", True),
    (dict, {"rank_pattern": {"q_proj": 4}}, "rank_pattern", True),
    (dict, {"init_lora_weights": "olora"}, "OLoRA", True),
    (dict, {"layer_replication": [[0, 2], [1, 2]]}, "layer_replication", False),
], ids=lambda value: value if isinstance(value, str) else None)  # fmt: skip
def test_each_kind_that_vllm_does_not_take_is_named_and_merged_where_that_can_be(
    work, tensors, config, reason, mergeable
):
    """As the table of docs/ADAPTERS.md says; vLLM 0.19.1 itself takes lora_bias and rank_pattern,
    ignores them and answers with another model."""
    from adapters import register
    from kit import console
    from serving import model_catalog, vllm_front

    adapter_runs.run(work, "odd", tensors(adapter_runs.tensors()), **config)
    version = register.register(work / "adapters", "odd", "odd-lora")
    catalog = model_catalog.check([version], None, model_catalog.BaseOptions())
    with pytest.raises(console.Problem) as refused:
        vllm_front.words(catalog, 1, 2, None)
    assert f"vLLM cannot serve odd-lora@v1.0.0 ({reason}" in refused.value.text
    assert ("--format merged" in refused.value.remedy) is mergeable
    assert "--engine own" in refused.value.remedy


def test_ranks_are_rounded_up_to_vllms_and_those_beyond_are_refused(work):
    from adapters import register
    from kit import console
    from serving import model_catalog, vllm_front

    def catalog(rank):
        adapter_runs.run(work, f"r{rank}", adapter_runs.tensors(rank=rank), r=rank)
        version = register.register(work / "adapters", f"r{rank}", f"rank-{rank}")
        return model_catalog.check([version], None, model_catalog.BaseOptions())

    words = vllm_front.words(catalog(40), 1, 2, None)
    assert words[words.index("--max-lora-rank") + 1] == "64"
    with pytest.raises(console.Problem, match="rank 513 above 512"):
        vllm_front.words(catalog(513), 1, 2, None)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_is_quantised_to_4_bits_and_not_to_8(work, bits):
    from adapters import register
    from kit import console
    from serving import model_catalog, vllm_front

    run = adapter_runs.run(work, "small")
    (run / "config.yaml").write_text(json.dumps({"quantization": {f"load_in_{bits}bit": True}}))
    version = register.register(work / "adapters", "small", "small-lora")
    catalog = model_catalog.check([version], None, model_catalog.BaseOptions())
    if bits == 4:
        words = vllm_front.words(catalog, 1, 2, None)
        assert words[words.index("--quantization") + 1] == "bitsandbytes"
        return
    with pytest.raises(console.Problem, match="whole or in 4 bits"):
        vllm_front.words(catalog, 1, 2, None)


def test_a_version_that_comes_while_vllm_runs_is_verified_and_loaded_into_it(work):
    from adapters import register
    from adapters.version_store import RESTORE

    def more(name, **changes):
        adapter_runs.run(work, name, changes.pop("tensors", None), **changes)
        return register.register(work / "adapters", name, "one-lora", bump="minor")

    def answer_of(model):
        answer = front.post(model=model).json()
        if "error" in answer:
            return answer["error"]["code"], answer["error"]["message"]
        return json.loads(answer["choices"][0]["message"]["content"])["asked"]["model"]

    with Front("--checkpoint", "one-lora") as front:
        assert answer_of("one-lora") == "one-lora@v1.0.0"
        more("second")
        assert answer_of("one-lora@latest") == answer_of("one-lora@v1.1.0") == "one-lora@v1.1.0"
        assert answer_of("one-lora@v1.0.0") == "one-lora@v1.0.0"
        damaged = more("third")
        (damaged.folder / "adapter_config.json").chmod(0o644)
        (damaged.folder / "adapter_config.json").write_text("{}")
        code, message = answer_of("one-lora@v1.2.0")
        assert code == "version_refused" and RESTORE in message
        assert "one-lora@v1.2.0 cannot be served: adapter_config.json" in message
        assert answer_of("one-lora") == "one-lora@v1.1.0"
        more("wide", tensors=adapter_runs.tensors(rank=32), r=32)
        assert "ranks up to 8; restart the server" in answer_of("one-lora@v1.3.0")[1]
        more("odd", tensors=dora(adapter_runs.tensors()), use_dora=True)
        assert "DoRA" in answer_of("one-lora@v1.4.0")[1]
