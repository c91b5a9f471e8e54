"""The same server with vLLM as its engine: our names, checks, bounds, errors and token before it.

Versions and base are verified as always; then `vllm serve` starts on a loopback port of its own,
with a key that only this process knows, and every request of the two APIs is handed on to it. What
vLLM cannot serve is refused before it starts (docs/ADAPTERS.md says what to do instead).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from typing import Any

from adapters.exports import vllm
from kit import console, paths
from serving import web
from serving.api_errors import ApiError
from serving.api_requests import read_object
from serving.model_catalog import Catalog, Served
from serving.service import Service

PROGRAM = ".venv-serve/bin/vllm"
STARTING = 1800.0  # seconds that vLLM may take to load and compile
ENDING = 20.0  # seconds that it may take to end
LOADING = 120.0  # seconds that it may take to load an adapter
LOAD = "/v1/load_lora_adapter"
RESTART = "restart the server with it"


def program() -> str:
    """vLLM's command; Misuse where it is not installed."""
    own = paths.ROOT / PROGRAM
    command = str(own) if own.exists() else shutil.which("vllm")
    if not command:
        raise console.Misuse(
            f"--engine vllm: no {PROGRAM}, and no vllm on the PATH",
            "make setup-serve installs it on a host with an NVIDIA GPU; or use --engine own",
        )
    return command


def words(catalog: Catalog, port: int, rows: int, context: int | None) -> list[str]:
    """The `vllm serve` call for a catalog; Problem for what vLLM cannot serve."""
    versions = [served.version for served in catalog.served if served.version]
    base = next((served.id for served in catalog.served if not served.version), "base")
    call = [program(), "serve", str(catalog.folder), "--host", "127.0.0.1", "--port", str(port),
            "--served-model-name", base, "--max-num-seqs", str(rows)]  # fmt: skip
    if context:
        call += ["--max-model-len", str(context)]
    if catalog.options.dtype:
        call += ["--dtype", catalog.options.dtype]
    if catalog.quantization["load_in_8bit"]:
        raise console.Problem(
            "vLLM loads a base whole or in 4 bits, and these versions were trained in 8",
            "--no-load-in-4bit loads it whole; or use --engine own",
        )
    if catalog.quantization["load_in_4bit"]:
        call += ["--quantization", "bitsandbytes"]
    for served in catalog.served:
        if served.version:
            _check(served)
    if versions:
        modules = [f"{version.reference}={version.folder}" for version in versions]
        call += ["--enable-lora", "--max-lora-rank", str(_rank(versions)),
                 "--max-loras", str(len(versions)), "--lora-modules", *modules]  # fmt: skip
    return call + _template(versions)


def _rank(versions: list[Any]) -> int:
    """The rank that vLLM is started for."""
    highest = max(version.card["adapter"]["max_rank"] for version in versions)
    return next(rank for rank in vllm.RANKS if rank >= highest)


def _check(served: Served) -> None:
    """Problem for a version that vLLM cannot serve."""
    reasons, rank = list(served.effect.vllm_refusals), served.version.card["adapter"]["max_rank"]
    if rank > vllm.RANKS[-1]:
        reasons.append(f"rank {rank} above {vllm.RANKS[-1]}")
    if not reasons:
        return
    fix = "--engine own"
    if served.effect.mergeable:
        export = f"checkpoint_manager.py export {served.id} --format merged --output DIR"
        fix = f"{export} and serve that with --base DIR, or {fix}"
    raise console.Problem(f"vLLM cannot serve {served.id} ({', '.join(reasons)})", fix)


def _template(versions: list[Any]) -> list[str]:
    """The chat template's option: vLLM has one for all models."""
    if len({version.card.get("chat_template_sha256") for version in versions}) > 1:
        raise console.Problem(
            "vLLM has one chat template for all models, and these versions have several",
            "serve them one by one, or use --engine own",
        )
    files = [version.folder / "chat_template.jinja" for version in versions]
    return ["--chat-template", str(files[0])] if files and files[0].is_file() else []


class VllmService(Service):
    """A Service whose answers come from a vLLM process."""

    relays = True

    def _build_engine(self) -> None:
        port = web.free_port()
        self.url, self._key = f"http://127.0.0.1:{port}", secrets.token_hex(24)
        self._running = 0
        call = words(self.catalog, port, self.limits.rows, self.limits.context)
        env = {key: value for key, value in os.environ.items() if key != "TANDEM_SERVER_TOKEN"}
        env |= {"VLLM_API_KEY": self._key, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}  # fmt: skip
        self.child = subprocess.Popen(
            call, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self._await_start()

    def _await_start(self) -> None:
        """Wait until vLLM answers; takes the context's length from it."""
        import httpx

        deadline = time.monotonic() + STARTING
        with httpx.Client(base_url=self.url, trust_env=False, headers=self._headers) as client:
            while True:
                if self.child.poll() is not None:
                    text = f"vLLM ended with exit code {self.child.returncode} while it loaded"
                    raise console.Problem(text, "its own lines above say why")
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/health").status_code == 200:
                        break
                if time.monotonic() > deadline or self.state == "draining":
                    self.stop()
                    raise console.Problem(f"vLLM did not answer within {STARTING:.0f} s")
                time.sleep(0.2)
            listed = client.get("/v1/models").json()["data"]
            self.context = int(listed[0].get("max_model_len") or 0)

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}"}

    @property
    def broken(self) -> bool:
        """Whether the process ended."""
        return self.state == "ready" and self.child.poll() is not None

    def stop(self) -> None:
        """End the process and all of its workers."""
        child = getattr(self, "child", None)
        if child is None or child.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(ENDING)
                return

    async def _load_one(self, made: Served) -> None:
        """Have vLLM load a verified version. Problem for one that it cannot serve as it runs."""
        import httpx

        _check(made)
        versions = [served.version for served in self.catalog.served if served.version]
        if made.version.card["adapter"]["max_rank"] > _rank(versions):
            raise console.Problem(f"vLLM was started for ranks up to {_rank(versions)}", RESTART)
        _template([*versions, made.version])
        body = {"lora_name": made.id, "lora_path": str(made.version.folder)}
        try:
            async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=LOADING) as on:
                answer = await on.post(LOAD, json=body, headers=self._headers)
        except httpx.HTTPError as error:
            text = f"vLLM does not answer ({type(error).__name__})"
            raise ApiError(503, "not_ready", text, retry_after=5) from None
        if answer.status_code != 200:
            raise console.Problem(f"vLLM refused it: {_refusal(answer).text}", RESTART)
        self.live.check_unchanged(made)

    async def relay(self, request) -> Any:
        """Hand a request of either API on to vLLM, and its answer back."""
        from starlette.responses import Response, StreamingResponse

        given = read_object(await request.body())
        if not isinstance(given.get("model"), str):
            text = "model must be a text"
            raise ApiError(400, "missing_required_parameter", text, param="model")
        served = await self.resolve(given["model"])
        request.state.model = served.id
        self.check_open()
        if self._running >= self.limits.rows + self.limits.queue:
            raise ApiError(429, "overloaded", f"{self._running} requests are being answered",
                           "try again later", retry_after=2)  # fmt: skip
        stack = contextlib.AsyncExitStack()
        self._running += 1
        stack.callback(self._one_less)
        try:
            answer = await self._send(stack, request.url.path, given | {"model": served.id})
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                return StreamingResponse(self._events(stack, answer, served), 200,
                                         media_type="text/event-stream")  # fmt: skip
            body = await answer.aread()
            self.count(served.id, "200")
            await stack.aclose()
            return Response(body, 200, media_type="application/json")
        except BaseException:
            await stack.aclose()
            raise

    def _one_less(self) -> None:
        self._running -= 1

    async def _send(self, stack: contextlib.AsyncExitStack, path: str, body: dict[str, Any]) -> Any:
        """vLLM's answer with status 200; ApiError for any other."""
        import httpx

        seconds = self.limits.seconds
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=httpx.Timeout(seconds))
        )
        try:
            stream = client.stream("POST", path, json=body, headers=self._headers)
            answer = await asyncio.wait_for(stack.enter_async_context(stream), seconds)
            if answer.status_code != 200:
                await answer.aread()
        except (httpx.TimeoutException, asyncio.TimeoutError):
            raise ApiError(504, "timeout", f"no answer within {seconds:g} s") from None
        except httpx.HTTPError as error:
            text = f"vLLM does not answer ({type(error).__name__})"
            raise ApiError(503, "not_ready", text, retry_after=5) from None
        if answer.status_code != 200:
            raise _refusal(answer)
        return answer

    async def _events(self, stack: contextlib.AsyncExitStack, answer: Any,
                      served: Served) -> AsyncIterator[bytes]:  # fmt: skip
        """A stream as it comes; however it ends, vLLM's generation ends with it."""
        status = "499"
        try:
            async for piece in answer.aiter_raw():
                yield piece
            status = "200"
        finally:
            self.count(served.id, status)
            await stack.aclose()


def _refusal(answer: Any) -> ApiError:
    """What vLLM refused, in the form of our errors."""
    try:
        body = answer.json()
        error = body.get("error") or body
        text, param = str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        text, param = f"vLLM answered {answer.status_code}", None
    status = answer.status_code if 400 <= answer.status_code < 500 else 500
    status = 500 if status in (401, 403) else status
    reason = "generation_failed" if status == 500 else "refused_by_engine"
    return ApiError(status, reason, text[:2000], param=param if isinstance(param, str) else None)
