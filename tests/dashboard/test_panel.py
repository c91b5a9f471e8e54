"""The page in a real Chromium: sizes, colours, keyboard, without script, live, and its safety."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from support import browser as chromium
from support import panel_runs
from support.checkout import ROOT
from support.processes import wait_until

pytestmark = pytest.mark.remote_env
ORIGIN = "http://127.0.0.1:8765"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    if not chromium.program():
        pytest.skip("no Chromium or Chrome here; sudo apt-get install chromium")
    with chromium.Browser() as started:
        yield started


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder as after some days: runs in several states, two versions."""
    from adapters import retire
    from checkpoint_manager import CheckpointManager
    from support import adapter_runs

    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEM_WORKDIR", str(folder))
        manager = CheckpointManager()
        for name, f1, seed in (("r1", 0.41, 1), ("r2", 0.52, 2)):
            measured = adapter_runs.report(f1, base=0.22, rouge_l=f1 + 0.1, loss=0.8)
            run = adapter_runs.run(folder, name, adapter_runs.tensors(seed), report=measured)
            (run / "report.html").write_text("<style>p{color:red}</style><p>measured</p>")
            version = manager.register(run, "mapper-lora")
        canary = {"ok": True, "change": 0.21, "different_answers": 4, "prompts": [{}] * 5}
        version.fact_file("canary").write_text(json.dumps(canary))
        retire.retire(manager.resolve("mapper-lora@v1.0.0"), "the newer one is better")
    panel_runs.make(folder, "20261119-070000-dead", pid=4194300, age=8e4)
    panel_runs.make(folder, "20261120-070000-fa11", "failed", pid=4194300, age=4e4, error=HOSTILE)
    return folder


@pytest.fixture
def trainer():
    """A process in a trainer's place; TERM ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.pause()", "lora_trainer.py"]
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def panel(work):
    server = panel_runs.Panel(work)
    yield server
    server.stop()


@pytest.fixture
def running(work, trainer):
    """A run that trains now, and is gone after the test."""
    run = panel_runs.make(work, "20261121-081530-3f2a", pid=trainer.pid)
    with (run / "log.txt").open("a") as f:
        f.write(f"2026-11-21T08:16:00Z {HOSTILE}\n")
    yield run
    shutil.rmtree(run)


@pytest.fixture
def client(work, monkeypatch):
    """The application itself, without a socket."""
    from fastapi.testclient import TestClient

    from dashboard import panel_app

    monkeypatch.setenv("TANDEM_WORKDIR", str(work))
    with TestClient(panel_app.create_app(), base_url=ORIGIN, follow_redirects=False) as client:
        yield client


# --- how it looks -------------------------------------------------------------------------------

CONTRAST = """
(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = c.map(v => { v /= 255;
    return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > .99) return c; }
    return [255, 255, 255]; };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, s = getComputedStyle(e);
    if (!walk.currentNode.data.trim() || !e.checkVisibility() ||
        e.closest('.hidden, .skip, script, noscript')) continue;
    const ink = parse(e.closest('svg.curve') ? s.fill : s.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${walk.currentNode.data.trim().slice(0, 30)}`);
  }
  return poor;
})()
"""
TOO_WIDE = """
[...document.querySelectorAll('body *:not(.hidden)')].filter(e => e.clientWidth &&
  e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible' &&
  !e.closest('.machine')).map(e => e.outerHTML.slice(0, 80))
"""
NAMELESS = """
[...document.querySelectorAll('input:not([type=hidden]), select, textarea')]
  .filter(e => !e.labels.length).concat([...document.querySelectorAll('button, a, summary')]
  .filter(e => !e.textContent.trim())).map(e => e.outerHTML.slice(0, 80))
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 1440])
def test_it_fits_the_screen_and_is_readable(browser, panel, running, tmp_path, width, dark):
    page = browser.page(width, 900, dark)
    page.open(panel.url + "/?run=20261120-070000-fa11")  # the list of runs is open
    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(TOO_WIDE) == []
    assert page.value(CONTRAST) == []
    assert page.value(NAMELESS) == []
    page.open(panel.url + "/")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(CONTRAST) == []
    seen = "[...document.querySelectorAll('svg.curve')].filter(e => e.checkVisibility()).length"
    assert page.value(seen) == 1, "one of the two drawings is shown"
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert page.complaints() == []
    assert all(url.startswith((panel.url, "data:", "about:")) for url in page.addresses())
    page.close()


def test_the_page_shows_run_versions_and_commands(browser, panel, running):
    page = browser.page()
    page.open(panel.url)
    text = page.value("document.querySelector('main').innerText")
    for said in ("20261121-081530-3f2a", "running", "42 %", "420 of 1,000 steps", "Time left",
                 "Heartbeat", "mapper-lora@v1.0.1", "passed", "retired", "Canary ok", "F1",
                 "4 of 5 answers differ", "Start a model server"):  # fmt: skip
        assert said in text, said
    assert page.value("document.querySelector('#run-log').innerText.trim()").endswith(HOSTILE)
    assert page.value("document.title") == "Running · Tandem", "no text of a run is markup"
    commands = page.value("[...document.querySelectorAll('.cli code')].map(e => e.textContent)")
    for part in ("tail -f", "kill -TERM", "--resume 20261121-081530-3f2a --confirm-run",
                 "scripts/model_server.py --checkpoint mapper-lora@v1.0.1", "vllm serve",
                 "checkpoint_manager.py verify", "lora_trainer.py --dry-run"):  # fmt: skip
        assert any(part in command for command in commands), part
    page.close()


def test_keys_alone_reach_and_press_everything(browser, panel, running, trainer):
    page = browser.page()
    page.open(panel.url)
    roles = page.value("['header', 'nav', 'main', 'footer'].map(n => "
                       "document.querySelectorAll(n).length)")  # fmt: skip
    assert roles == [1, 1, 1, 1] and page.value("document.querySelectorAll('h1').length") == 1
    page.press("Tab", 9)
    assert page.value("document.activeElement.className") == "skip"
    page.press("Enter", 13)
    assert page.value("document.activeElement.id") == "main"
    reached = set()
    for _ in range(60):
        page.press("Tab", 9)
        reached.add(page.value("document.activeElement.outerHTML.slice(0, 60)"))
        outline = page.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", page.value("document.activeElement.outerHTML")
        if page.value("document.activeElement.textContent") == "Plan":
            break
    assert any('class="danger"' in e for e in reached) and any("<summary" in e for e in reached)
    assert any('id="overrides"' in e for e in reached) and any('"first_yes"' in e for e in reached)
    page.value("document.querySelector('button.danger').focus()")
    page.act(lambda: page.press("Enter", 13))
    assert trainer.wait(20) == -signal.SIGTERM
    page.close()


def test_everything_works_without_script(browser, panel, running, trainer):
    page = browser.page(script=False)
    page.open(panel.url)
    assert page.value("document.querySelectorAll('svg.curve polyline').length") == 4
    page.click("#overrides")
    page.type("lora.r=8\nlora.rank=3")
    page.act(lambda: page.click("form.wish button"))
    assert "lora.rank: unknown key" in page.value("document.querySelector('#error').textContent")
    assert page.value("document.querySelector('#overrides').value") == "lora.r=8\nlora.rank=3"
    page.act(lambda: page.click("button.danger"))
    assert trainer.wait(20) == -signal.SIGTERM
    page.close()


def test_a_plan_without_its_model_cannot_be_confirmed(browser, panel):
    page = browser.page(320, 700)
    page.open(panel.url)
    page.act(lambda: page.click("form.wish button"))
    text = page.value("document.querySelector('main').innerText")
    assert "safety.dry_run: true" in text and "no model at models/Llama" in text
    assert "lora_trainer.py --confirm-run" in text
    assert page.value("document.querySelectorAll('form[action=\"/run\"]').length") == 0
    assert page.value("document.documentElement.scrollWidth") <= 320
    assert page.complaints() == []
    page.close()


# --- what changes by itself -----------------------------------------------------------------------


def test_the_page_follows_the_run_and_outlives_the_server(browser, panel, running):
    page = browser.page()
    page.open(panel.url)
    page.value("window.same = true; document.querySelector('#overrides').value = 'lora.r=8'; 0")
    status = json.loads((running / "status.json").read_text())

    def write(**changes):
        changed = status | {"heartbeat": time.time()} | changes
        part = running / "status.part"
        part.write_text(json.dumps(changed))
        os.replace(part, running / "status.json")

    with (running / "log.txt").open("a") as f:
        f.write("2026-11-21T08:20:00Z step 500/1000  loss 0.25\n")
    write(step=500, loss=0.25)
    page.wait("document.querySelector('#run-progress').innerText.includes('500 of 1,000')")
    page.wait("document.querySelector('#run-log').innerText.includes('step 500/1000')")
    panel.stop()
    page.wait("!document.querySelector('#connection').hidden")
    write(step=510)
    panel.start()
    page.wait("document.querySelector('#connection').hidden")
    page.wait("document.querySelector('#run-progress').innerText.includes('510 of 1,000')")
    write(state="completed", step=1000, ended=time.time())
    page.wait("document.querySelector('#run-state').innerText.includes('completed')")
    page.wait("document.querySelector('#announce').textContent === 'The run is completed.'")
    assert page.value("document.querySelectorAll('button.danger').length") == 0
    assert page.value("window.same && document.querySelector('#overrides').value") == "lora.r=8"
    page.close()


# --- who may do what ------------------------------------------------------------------------------


def test_forms_need_the_token_of_the_page(client, running, trainer):
    assert client.post("/stop", data={"run": running.name}).status_code == 403
    page = client.get("/")
    token = re.search(r'name="csrf" value="([\w-]{43})"', page.text)[1]
    assert "HttpOnly" in page.headers["set-cookie"] and "SameSite=lax" in page.headers["set-cookie"]
    answer = client.post("/stop", data={"run": running.name, "csrf": token[::-1]})
    assert answer.status_code == 403 and "reload the page" in answer.text
    foreign = {"origin": "http://evil.example"}
    answer = client.post("/stop", data={"run": running.name, "csrf": token}, headers=foreign)
    assert answer.status_code == 403 and trainer.poll() is None
    assert client.get("/").text.count(token), "the browser's token stays the same"
    answer = client.post("/stop", data={"run": running.name, "csrf": token})
    assert answer.status_code == 303 and trainer.wait(20) == -signal.SIGTERM


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


def test_a_browser_signs_in_once_where_a_token_is_set(work, monkeypatch):
    from fastapi.testclient import TestClient

    from dashboard import panel_app

    monkeypatch.setenv("TANDEM_WORKDIR", str(work))
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


# --- the command ----------------------------------------------------------------------------------


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


# --- base and adapter ---------------------------------------------------------------------------


@pytest.mark.slow
def test_base_and_adapter_answer_side_by_side(browser, tmp_path, monkeypatch):
    """A real model server, started, asked and stopped by the page's buttons."""
    from checkpoint_manager import CheckpointManager
    from support import adapter_runs, tiny

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    monkeypatch.setattr(chromium, "PATIENCE", 90.0)
    tiny.build(tmp_path, steps=1)
    strong = adapter_runs.tensors(scale=2.0)
    run = adapter_runs.run(tmp_path, "r1", strong, facts={"base_model": "models/miniature"},
                           base_model_name_or_path="models/miniature")  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tmp_path / "models" / "miniature" / name, run / "final" / name)
    CheckpointManager().register(run, "mapper-lora")
    server = panel_runs.Panel(tmp_path)
    record = tmp_path / "adapters" / "runs" / ".jobs" / "model_server.json"
    try:
        page = browser.page()
        page.open(server.url)
        page.act(lambda: page.click("#try .inline-form button"))
        page.wait("!!document.querySelector('form.ask, #server-state .bad')")
        assert not page.value("document.querySelector('#server-state .bad')?.textContent")
        names = "[...document.querySelectorAll('form.ask select')].map(e => e.value)"
        assert page.value(names) == ["miniature", "mapper-lora@v1.0.0"]
        server.restart()
        page.open(server.url + "/?again")
        page.value("document.querySelector('#prompt').focus()")
        page.type("Weather in Oslo on day 3?")
        page.act(lambda: page.click("form.ask button"))
        said = page.value("[...document.querySelectorAll('.answer')].map(e => e.innerText)")
        assert len(said) == 2 and said[0].startswith("miniature")
        assert said[1].startswith("mapper-lora@v1.0.0") and "tokens" in said[1]
        answers = page.value("[...document.querySelectorAll('.said')].map(e => e.textContent)")
        assert answers[0] != answers[1]
        page.act(lambda: page.click("form[action='/serve/stop'] button"))
        pid = json.loads(record.read_text())["pid"]
        wait_until(lambda: not is_alive(pid))
        page.close()
    finally:
        server.stop()
        if record.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)


def is_alive(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_the_script_is_small_and_loads_nothing():
    static = ROOT / "scripts" / "dashboard" / "static"
    sizes = {file.name: file.stat().st_size for file in static.iterdir()}
    assert sizes["panel.js"] < 10_000 and sizes["panel.css"] < 20_000
    for file in static.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//cdn|@import|url\(", text), file.name
