"""Everything that the model server's OpenAPI document allows is answered as documented."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is in .venv-local alone")

from support import openapi_fuzz, schemathesis_run
from support.checkout import ROOT

pytestmark = pytest.mark.slow
BUILD = """
import sys, pathlib
sys.path[:0] = sys.argv[2:]
from support import served_models
served_models.build(pathlib.Path(sys.argv[1]), ("weather-lora",))
"""
HINTS = {
    "model": ["weather-lora", "miniature"], "role": ["user", "system", "assistant", "tool"],
    "messages": [[{"role": "user", "content": "Weather in Oslo?"}]], "prompt": ["It is", [20, 21]],
    "max_tokens": [1, 3, None], "max_completion_tokens": [2, None], "n": [1, 2, None],
    "temperature": [0, 1e-320, 2, None], "top_p": [5e-324, 0.5, 1, None], "stream": [False, None],
    "top_logprobs": [0, 3], "logprobs": [None], "stop": ["x", None], "tools": [None],
    "stream_options": [None], "name": ["weather-lora"],
}  # fmt: skip


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    work = tmp_path_factory.mktemp("fuzzed")
    options = ("--checkpoint", "weather-lora", "--json", "--dtype", "float32",
               "--max-length", "160", "--timeout", "60")  # fmt: skip
    if not openapi_fuzz.PYTHON.exists():
        pytest.skip("needs .venv-remote")
    words = [str(openapi_fuzz.PYTHON), "-c", BUILD, str(work), str(ROOT / "scripts"),
             str(ROOT / "tests")]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)
    process = openapi_fuzz.start("model_server.py", work, *options)
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    yield openapi_fuzz.Document(json.loads(line)["url"].removesuffix("/v1"), HINTS)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in errors, errors


def test_every_answer_is_documented_and_none_is_a_500(document):
    seen = {}
    for method, path, operation in document.operations():
        examples = 120 if method == "post" else 25
        seen[path] = openapi_fuzz.drive(document, method, path, operation, examples)
    assert set(seen) == {"/health", "/ready", "/metrics", "/v1/models", "/v1/models/{name}",
                         "/v1/chat/completions", "/v1/completions"}  # fmt: skip
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert {200, 400} <= seen[path], "some were answered, some refused"
    assert document.client.get("/health").json() == {"status": "ok"}


def test_schemathesis_has_no_complaint(document, tmp_path):
    url = str(document.client.base_url)
    schemathesis_run.drive(url.rstrip("/"), tmp_path, 7, '"body.model" = "weather-lora"')
    assert document.client.get("/health").json() == {"status": "ok"}


def test_other_methods_and_addresses_have_the_same_form(document):
    for method, path in (("PUT", "/v1/models"), ("DELETE", "/health"), ("GET", "/v1/nothing"),
                         ("GET", "//"), ("OPTIONS", "/v1/models"), ("GET", "/openapi.json/x"),
                         ("PATCH", "/v1/chat/completions")):  # fmt: skip
        answer = document.client.request(method, path, headers={"content-type": "application/json"})
        assert answer.status_code in (404, 405) and answer.json()["error"]["message"], path
    for method in ("TRACE", "PUT", "POST", "DELETE"):  # without a content type too
        assert document.client.request(method, "/v1/models").status_code == 405
    assert "torch" not in sys.modules
