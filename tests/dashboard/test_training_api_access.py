"""Who may ask the training API, and the form of its refusals."""

import pytest

from support import panel_runs
from support.training_requests import ORIGIN, refused

pytestmark = pytest.mark.remote_env


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"host": "evil.example:8765"}, 403, "foreign_host"),
        ({"host": "127.0.0.1.evil.example"}, 403, "foreign_host"),
        ({"origin": "http://evil.example"}, 403, "foreign_origin"),
        ({"origin": "http://127.0.0.1:3000"}, 403, "foreign_origin"),
        ({"origin": "null"}, 403, "foreign_origin"),
        ({"sec-fetch-site": "cross-site"}, 403, "foreign_origin"),
        ({"content-type": "text/plain"}, 415, "not_json"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "not_json"),
    ],
)
def test_other_pages_cannot_start_or_stop_anything(client, headers, status, code):
    for address in ("run", "stop"):
        sent = {"content-type": "application/json"} | headers
        answer = client.post(f"/api/v1/training/{address}", content="{}", headers=sent)
        refused(answer, status, code)


def test_a_name_that_was_pointed_here_reads_nothing_either(client):
    for address in ("/", "/api/v1/training/status", "/api/v1/training/events", "/static/panel.js"):
        answer = client.get(address, headers={"host": "evil.example"})
        refused(answer, 403, "foreign_host")
    assert client.get("/", headers={"host": "localhost:9000"}).status_code == 200, "a tunnel"
    assert client.get("/", headers={"host": "[::1]:8765"}).status_code == 200


def test_bad_requests_get_one_clear_answer(client, work):
    post = "/api/v1/training/run"
    json_ = {"content-type": "application/json"}
    refused(client.post(post, content="{", headers=json_), 400, "not_json")
    error = refused(client.post(post, json={"overrides": "x"}), 400, "invalid")
    assert error["message"].startswith("overrides")
    refused(client.post(post, json={"tokn": "x"}), 400, "invalid")
    refused(client.post(post, content=b"x" * 300_000, headers=json_), 413, "too_large")
    refused(client.post("/api/v1/training/stop", json={}), 409, "not_running")
    panel_runs.make(work, "r7", "completed")
    error = refused(client.get("/api/v1/training/status?run=r8"), 404, "no_such_run")
    assert "the latest: r7" in error["message"]
    refused(client.get("/api/v1/training/status?run=../runs"), 404, "no_such_run")
    refused(client.get("/api/v1/training/events?run=r8"), 404, "no_such_run")
    refused(client.post(post, json={"resume": "r7"}), 409, "not_resumable")
    assert client.get("/api/v1/nothing").json()["error"]["message"]
    assert client.get(post).status_code == 405


def test_a_token_is_asked_of_everybody_where_one_is_set(work):
    from fastapi.testclient import TestClient

    from dashboard import panel_app

    secret = "correct horse battery"
    with TestClient(panel_app.create_app(token=secret), base_url=ORIGIN) as client:
        refused(client.get("/api/v1/training/status"), 401, "invalid_api_key")
        wrong = {"authorization": "Bearer wrong horse battery"}
        refused(client.get("/api/v1/models", headers=wrong), 401, "invalid_api_key")
        right = {"authorization": f"Bearer {secret}"}
        assert client.get("/api/v1/training/status", headers=right).status_code == 200
