"""A real Chromium, driven through the DevTools protocol: no driver, no package but websockets.

with Browser() as browser:
    page = browser.page(width=320, dark=True)
    page.open("http://127.0.0.1:8765/")
    page.value("document.title")
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.processes import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
         "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")  # fmt: skip
PATIENCE = 30.0  # seconds for anything a page does


def program() -> str | None:
    """The Chromium or Chrome of this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A headless Chromium with an empty profile; `page` opens a tab in it."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp(prefix="tandem-chromium-")
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--no-first-run", "--disable-extensions", "--disable-background-networking",
                   "--disable-component-update", "--no-proxy-server", "--force-color-profile=srgb",
                   "--remote-debugging-port=0", f"--user-data-dir={self._profile}"]  # fmt: skip
        self._process = subprocess.Popen(
            [program(), *options, "about:blank"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        from websockets.sync.client import connect

        file = Path(self._profile, "DevToolsActivePort")
        wait_until(
            lambda: file.is_file() and file.read_text().count("\n"),
            seconds=PATIENCE,
            problem="Chromium does not start",
        )
        port, path = file.read_text().split("\n")[:2]
        self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None,
                               ping_interval=None)  # fmt: skip
        self._number, self.events = 0, []

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command of the protocol; its result. Events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE))
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                return answer["result"]
            self.events.append(answer)

    def page(self, width: int = 1440, height: int = 900, dark: bool = False,
             script: bool = True) -> Page:  # fmt: skip
        """A new tab of that size, in CSS pixels."""
        return Page(self, width, height, dark, script)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, width: int, height: int, dark: bool, script: bool):
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._target, self._session = target, attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def open(self, address: str) -> None:
        """Go there and wait until the page is loaded."""
        self.act(lambda: self.call("Page.navigate", url=address))

    def act(self, action) -> None:
        """Do what leads to another page, and wait until that is loaded."""
        before = self._loads()
        action()
        wait_until(lambda: self._loads() > before, seconds=PATIENCE, problem="no page was loaded")

    def _loads(self) -> int:
        self.call("Runtime.evaluate", expression="0")  # takes in the events up to now
        return sum(e.get("method") == "Page.loadEventFired" for e in self._mine())

    def _mine(self) -> list[dict[str, Any]]:
        return [e for e in self._browser.events if e.get("sessionId") == self._session]

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is worth in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True, userGesture=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The expression's value, once it is true."""
        problem = f"never true: {expression}"
        return wait_until(lambda: self.value(expression), seconds=PATIENCE, problem=problem)

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(f"{find}.getBoundingClientRect().toJSON()")
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key: str, code: int) -> None:
        """Press a key: press("Tab", 9), press("Enter", 13)."""
        text = {"Enter": "\r", " ": " "}.get(key)
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        down = event | ({"text": text} if text else {})
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def complaints(self) -> list[str]:
        """Everything that the console, the content policy or a request complained about."""
        self.call("Runtime.evaluate", expression="0")
        texts = []
        for event in self._mine():
            method, params = event.get("method"), event.get("params", {})
            if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                texts.append(params["entry"]["text"])
            elif method == "Runtime.exceptionThrown":
                texts.append(params["exceptionDetails"]["text"])
            elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
                texts.append(str(params["args"]))
        return texts

    def addresses(self) -> set[str]:
        """Every address that the page asked for."""
        return {e["params"]["request"]["url"] for e in self._mine()
                if e.get("method") == "Network.requestWillBeSent"}  # fmt: skip

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """A PNG of the whole page, or of what is in view."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
