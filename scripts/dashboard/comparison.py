"""Base and adapter side by side, answered by a model server: a given one, or one started here.

A server that the panel starts is a process of its own (adapters/runs/.jobs/model_server.json and
.log); it outlives the panel, which finds it again.
"""

from __future__ import annotations

import concurrent.futures
import os
import shlex
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dashboard import training_jobs as jobs
from dashboard import training_runs as runs
from kit import paths, publish
from serving import web
from serving.api_errors import ApiError

SCRIPT = "scripts/model_server.py"
PATIENCE = 180.0  # seconds that an answer may take


class ComparedServer:
    """Where questions go. `url`: a server that is there; None: start one when asked to."""

    def __init__(self, url: str | None = None, token: str | None = None):
        self.token = token
        self.given = url.rstrip("/").removesuffix("/v1") if url else None

    def describe(self) -> dict[str, Any]:
        """{"state": none | starting | ready | failed | unreachable, "url", "models", …}."""
        if self.given:
            facts = {"given": True, "url": self.given, "log": [], "job": {}}
            state, models, why = self._models(self.given)
            return facts | {"state": state, "models": models, "why": why}
        job = runs.read(_record())
        facts = {"given": False, "url": job.get("url"), "job": job, "models": [], "why": ""}
        facts["log"] = runs.tail(_log(), 12)
        if not job or job.get("host") != socket.gethostname():
            return facts | {"state": "none", "log": []}
        if not _lives(job):
            why = "" if job.get("stopped") else (facts["log"] or ["it ended without a message"])[-1]
            return facts | {"state": "failed" if why else "none", "why": why}
        state, models, why = self._models(job["url"])
        return facts | {"state": "ready" if models else "starting", "models": models, "why": why}

    def _models(self, url: str) -> tuple[str, list[dict[str, Any]], str]:
        """(state, the models that a server offers, why there are none)."""
        import httpx

        try:
            with client_for(url, 3.0, self.token) as client:
                if client.get(f"{url}/ready").status_code == 503:  # vLLM has no /ready: 404
                    return "starting", [], "it loads its model"
                answer = client.get(f"{url}/v1/models")
            models = [m for m in answer.json()["data"] if isinstance(m["id"], str)]
            return "ready", models, ""
        except (httpx.HTTPError, OSError) as error:
            return "unreachable", [], str(error) or type(error).__name__
        except (ValueError, KeyError, TypeError):
            return "unreachable", [], f"it answered {answer.status_code}, and no list of models"

    def start(self, reference: str) -> str:
        """Start a server for a version; returns its address."""
        if self.given:
            raise ApiError(409, "given", f"the panel was started with --server {self.given}")
        if not (paths.ROOT / SCRIPT).is_file():
            raise ApiError(501, "no_server", f"{SCRIPT} is not part of this checkout")
        if self.describe()["state"] in ("ready", "starting"):
            raise ApiError(409, "busy", "a model server runs already", "stop it first")
        port = web.free_port()
        _log().unlink(missing_ok=True)
        job = jobs.detach(
            [*serve_words(reference), "--port", str(port)], _log(),
            secrets={web.TOKEN: self.token} if self.token else {},
        )  # fmt: skip
        publish.json_file(
            _record(), job | {"url": f"http://127.0.0.1:{port}", "reference": reference}
        )
        return f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        """End the server that was started here; it finishes the answers it is giving."""
        job = runs.read(_record())
        if self.given or not _lives(job):
            raise ApiError(409, "not_running", "no model server runs that was started here")
        publish.json_file(_record(), job | {"stopped": time.time()})
        os.kill(job["pid"], signal.SIGTERM)

    def ask_both(self, models: tuple[str, str], prompt: str, **options: Any) -> list[dict]:
        """Both models' answers to one prompt: [{"model", "text", "tokens", "seconds", "error"}]."""
        server = self.describe()
        if server["state"] != "ready":
            raise ApiError(503, "no_server", "no model server answers", "start one")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(self.ask, server["url"], m, prompt, **options) for m in models]
            return [future.result() for future in asked]

    def ask(
        self, url: str, model: str, prompt: str, max_tokens: int, temperature: float
    ) -> dict[str, Any]:
        """One answer of one model, or the error that its server gave."""
        import httpx

        result: dict[str, Any] = {"model": model, "text": "", "tokens": None, "error": None}
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": 0,
        }
        began = time.monotonic()
        try:
            with client_for(url, PATIENCE, self.token) as client:
                answer = client.post(f"{url}/v1/chat/completions", json=body)
            reply = answer.json()
            if answer.status_code != 200:
                result["error"] = reply["error"]["message"]
            else:
                result["text"] = reply["choices"][0]["message"]["content"] or ""
                result["tokens"] = (reply.get("usage") or {}).get("completion_tokens")
        except httpx.HTTPError as error:
            result["error"] = f"no answer: {error or type(error).__name__}"
        except (ValueError, KeyError, TypeError, IndexError):
            result["error"] = (
                f"the server answered {answer.status_code} in a form that is not OpenAI's"
            )
        return result | {"seconds": time.monotonic() - began}


def client_for(url: str, patience: float, token: str | None):
    """An HTTP client; no proxy is used for loopback."""
    import httpx

    return httpx.Client(
        timeout=httpx.Timeout(patience, connect=3.0),
        trust_env=urlsplit(url).hostname not in web.LOOPBACK,
        headers={"authorization": f"Bearer {token}"} if token else {},
    )


def serve_words(reference: str) -> list[str]:
    """The model server's call for a version."""
    return [SCRIPT, "--checkpoint", reference]


def serve_command(reference: str) -> str:
    """The same as people type it."""
    return shlex.join([jobs.PYTHON, *serve_words(reference)])


def _lives(job: dict[str, Any]) -> bool:
    """Whether the model server of a record still runs here."""
    return runs.process_lives(job, Path(SCRIPT).name, job.get("reference") or "")


def _record() -> Path:
    return jobs.folder() / "model_server.json"


def _log() -> Path:
    return jobs.folder() / "model_server.log"
