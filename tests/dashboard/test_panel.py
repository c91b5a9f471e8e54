"""The page in a real Chromium: sizes, colours, keyboard, without script, live, and its safety."""

import contextlib
import json
import os
import re
import shutil
import signal
import time

import pytest

from support import browser as chromium
from support import panel_runs
from support.panel_runs import HOSTILE
from support.processes import is_alive, wait_until

pytestmark = pytest.mark.remote_env


@pytest.fixture(scope="module")
def browser():
    if not chromium.program():
        pytest.skip("no Chromium or Chrome here; sudo apt-get install chromium")
    with chromium.Browser() as started:
        yield started


@pytest.fixture(scope="module")
def panel(days_of_work):
    server = panel_runs.Panel(days_of_work)
    yield server
    server.stop()


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
    for expected in ("20261121-081530-3f2a", "running", "42 %", "420 of 1,000 steps", "Time left",
                 "Heartbeat", "mapper-lora@v1.0.1", "passed", "retired", "Canary ok", "F1",
                 "4 of 5 answers differ", "Start a model server"):  # fmt: skip
        assert expected in text, expected
    assert page.value("document.querySelector('#run-log').innerText.trim()").endswith(HOSTILE)
    assert page.value("document.title") == "Running · Tandem", "no text of a run is markup"
    commands = page.value("[...document.querySelectorAll('.cli code')].map(e => e.textContent)")
    for part in ("tail -f", "kill -TERM", "--resume 20261121-081530-3f2a --confirm-run",
                 "scripts/model_server.py --checkpoint mapper-lora@v1.0.1", "vllm serve",
                 "checkpoint_manager.py verify", "lora_trainer.py --dry-run"):  # fmt: skip
        assert any(part in command for command in commands), part
    page.close()


def test_keys_alone_reach_and_press_everything(browser, panel, running, stoppable):
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
    assert stoppable.wait(20) == -signal.SIGTERM
    page.close()


def test_everything_works_without_script(browser, panel, running, stoppable):
    page = browser.page(script=False)
    page.open(panel.url)
    assert page.value("document.querySelectorAll('svg.curve polyline').length") == 4
    page.click("#overrides")
    page.type("lora.r=8\nlora.rank=3")
    page.act(lambda: page.click("form.wish button"))
    assert "lora.rank: unknown key" in page.value("document.querySelector('#error').textContent")
    assert page.value("document.querySelector('#overrides').value") == "lora.r=8\nlora.rank=3"
    page.act(lambda: page.click("button.danger"))
    assert stoppable.wait(20) == -signal.SIGTERM
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
        boxes = page.value("[...document.querySelectorAll('.answer')].map(e => e.innerText)")
        assert len(boxes) == 2 and boxes[0].startswith("miniature")
        assert boxes[1].startswith("mapper-lora@v1.0.0") and "tokens" in boxes[1]
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
