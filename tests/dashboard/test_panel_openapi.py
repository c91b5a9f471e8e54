"""Everything that the training API's OpenAPI document allows is answered as documented."""

import json
import os
import signal

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is in .venv-local alone")

from support import openapi_fuzz, panel_runs, schemathesis_run

pytestmark = pytest.mark.slow
HINTS = {
    "run": ["good-run", "none", None], "resume": ["good-run", None], "token": ["x", None],
    "config": ["training_config.yaml", "x.yaml"], "lines": [0, 5, 1000, 1001],
    "overrides": [["lora.r=x"], ["lora.rank=3"], ["="]], "after": ["good-run/1/2/3", "x/y"],
}  # fmt: skip


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    work = tmp_path_factory.mktemp("fuzzed")
    panel_runs.make(work, "good-run", "completed", age=1)
    process = openapi_fuzz.start("panel.py", work)
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    yield openapi_fuzz.Document(line.strip(), HINTS)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors, errors


def test_every_answer_is_documented_and_none_is_a_500(document):
    seen = {}
    for method, path, operation in document.operations():
        examples = 60 if method == "post" else 25
        seen[path] = openapi_fuzz.drive(document, method, path, operation, examples)
    assert set(seen) == {
        f"/api/v1/{name}"
        for name in (
            "training/run",
            "training/status",
            "training/events",
            "training/stop",
            "models",
        )
    }
    assert 400 in seen["/api/v1/training/run"] and 409 in seen["/api/v1/training/stop"]
    assert document.client.get("/").status_code == 200


def test_schemathesis_has_no_complaint(document, tmp_path):
    schemathesis_run.drive(str(document.client.base_url).rstrip("/"), tmp_path, 5)
    assert document.client.get("/").status_code == 200


def test_a_token_guards_the_document_too(tmp_path):
    secret = "0123456789abcdef-secret"
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(secret)
    process = openapi_fuzz.start("panel.py", tmp_path, "--token-file", str(file))
    try:
        import httpx

        url = process.stdout.readline().strip()
        for headers, status in (({}, 401), ({"authorization": "Bearer x"}, 401),
                                ({"authorization": f"Bearer {secret}"}, 200)):  # fmt: skip
            answer = httpx.get(f"{url}/openapi.json", headers=headers)
            assert answer.status_code == status and json.loads(answer.text)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate()
