"""The panel's forms, policies and command, without a browser."""

import re
import signal
import socket

import pytest

from support.checkout import ROOT
from support.panel_runs import HOSTILE
from support.training_requests import ORIGIN

pytestmark = pytest.mark.remote_env


@pytest.fixture
def client(days_of_work, monkeypatch):
    """The application itself, without a socket."""
    from fastapi.testclient import TestClient

    from dashboard import panel_app

    monkeypatch.setenv("TANDEM_WORKDIR", str(days_of_work))
    with TestClient(panel_app.create_app(), base_url=ORIGIN, follow_redirects=False) as client:
        yield client


def test_forms_need_the_token_of_the_page(client, running, stoppable):
    assert client.post("/stop", data={"run": running.name}).status_code == 403
    page = client.get("/")
    token = re.search(r'name="csrf" value="([\w-]{43})"', page.text)[1]
    assert "HttpOnly" in page.headers["set-cookie"] and "SameSite=lax" in page.headers["set-cookie"]
    answer = client.post("/stop", data={"run": running.name, "csrf": token[::-1]})
    assert answer.status_code == 403 and "reload the page" in answer.text
    foreign = {"origin": "http://evil.example"}
    answer = client.post("/stop", data={"run": running.name, "csrf": token}, headers=foreign)
    assert answer.status_code == 403 and stoppable.poll() is None
    assert client.get("/").text.count(token), "the browser's token stays the same"
    answer = client.post("/stop", data={"run": running.name, "csrf": token})
    assert answer.status_code == 303 and stoppable.wait(20) == -signal.SIGTERM


def test_no_page_runs_foreign_script(client, running):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert HOSTILE not in page.text and "&lt;script&gt;" in page.text
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page.text), "the policy forbids such attributes"
    report = client.get("/runs/r1/report")
    assert "measured" in report.text and "sandbox" in report.headers["content-security-policy"]
    log = client.get(f"/runs/{running.name}/log")
    assert log.headers["content-type"].startswith("text/plain")
    assert log.headers["x-content-type-options"] == "nosniff"
    for bad in ("/runs/none/log", "/runs/..%2Fruns/log", "/static/../app.py", "/nothing"):
        assert client.get(bad).status_code == 404


def test_a_browser_signs_in_once_where_a_token_is_set(days_of_work, monkeypatch):
    from fastapi.testclient import TestClient

    from dashboard import panel_app

    monkeypatch.setenv("TANDEM_WORKDIR", str(days_of_work))
    secret = "correct horse battery"
    application = panel_app.create_app(token=secret)
    with TestClient(application, base_url=ORIGIN, follow_redirects=False) as client:
        assert client.get("/").headers["location"] == "/login"
        page = client.get("/login")
        csrf = re.search(r'name="csrf" value="([\w-]{43})"', page.text)[1]
        wrong = client.post("/login", data={"csrf": csrf, "token": "wrong"})
        assert wrong.status_code == 401 and "another token" in wrong.text
        right = client.post("/login", data={"csrf": csrf, "token": secret})
        assert right.status_code == 303 and secret not in right.headers["set-cookie"]
        assert client.get("/").status_code == 200


def test_it_listens_on_this_machine_alone(command):
    done = command("panel.py", "--host", "0.0.0.0")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "ssh -L" in done.stderr
    done = command("panel.py", "--port", "99999")
    assert done.returncode == 2 and "65535" in done.stderr
    done = command("panel.py", "--server", "localhost:8000")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_taken_port_is_one_line(command):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = command("panel.py", "--port", other.getsockname()[1])
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--port" in done.stderr


def test_the_script_is_small_and_loads_nothing():
    static = ROOT / "scripts" / "dashboard" / "static"
    sizes = {file.name: file.stat().st_size for file in static.iterdir()}
    assert sizes["panel.js"] < 10_000 and sizes["panel.css"] < 20_000
    for file in static.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//cdn|@import|url\(", text), file.name
