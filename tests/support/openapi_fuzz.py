"""Ask a server everything that its OpenAPI document allows, and much that it does not.

Every answer must be documented, in the documented form, and never a 500. schemathesis_run.py asks
the same server by other means; this one knows which names exist, and needs hypothesis alone.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.checkout import ROOT

PYTHON = ROOT / ".venv-remote" / "bin" / "python"
ODD = ["", "\x00", "\ud800", "\u202e", "../..", "%00", "x" * 3000, "'\"<>", "{{7*7}}", "é", "NaN"]
TEXT = st.one_of(st.text(max_size=20), st.sampled_from(ODD))
NUMBER = st.one_of(
    st.integers(-3, 40), st.floats(), st.sampled_from([2**63, -(2**63) - 1, 10**400, 1e-320, -0.0])
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


def start(script: str, work: Path, *options: str) -> subprocess.Popen:
    """scripts/SCRIPT of the training environment, on `work`; skips where there is none."""
    if not PYTHON.exists():
        pytest.skip("needs .venv-remote")
    return subprocess.Popen(
        [str(PYTHON), str(ROOT / "scripts" / script), "--port", "0", *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TANDEM_WORKDIR": str(work), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


class Document:
    """The OpenAPI document of a server at `url`. hints: {property: values that often fit}."""

    def __init__(self, url: str, hints: dict[str, list[Any]]):
        self.url, self.hints = url, hints
        self.client = httpx.Client(base_url=url, timeout=120)
        answer = self.client.get("/openapi.json")
        assert answer.status_code == 200, answer.text
        self.whole = answer.json()

    def operations(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(method, path, operation) of each."""
        return [(method, path, operation) for path, known in self.whole["paths"].items()
                for method, operation in known.items()]  # fmt: skip

    def values(self, schema: dict[str, Any], name: str = "") -> st.SearchStrategy:
        """Mostly values of that schema, sometimes any JSON at all."""
        fitting = self._fitting(schema)
        if name in self.hints:
            known = st.sampled_from(self.hints[name])
            return st.one_of(known, known, known, fitting, JSON)
        return st.one_of(fitting, fitting, fitting, fitting, JSON)

    def _fitting(self, schema: dict[str, Any]) -> st.SearchStrategy:
        if "$ref" in schema:
            schema = self.whole["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if "anyOf" in schema:
            return st.one_of(*map(self._fitting, schema["anyOf"]))
        if "enum" in schema or "const" in schema:
            return st.sampled_from(schema.get("enum") or [schema["const"]])
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            most = min(schema.get("maxItems", 3), 3)
            least = min(schema.get("minItems", 0), most)
            items = st.deferred(lambda: self.values(schema.get("items", {})))
            return st.lists(items, min_size=least, max_size=most)
        return {"string": TEXT, "integer": st.integers(-2, 40), "number": NUMBER,
                "boolean": st.booleans(), "null": st.none()}.get(kind, JSON)  # fmt: skip

    def _object(self, schema: dict[str, Any]) -> st.SearchStrategy:
        known = {
            key: st.deferred(lambda key=key, inner=inner: self.values(inner, key))
            for key, inner in schema.get("properties", {}).items()
        }
        needed = {key: known.pop(key) for key in schema.get("required", []) if key in known}
        fixed = st.fixed_dictionaries(needed, optional=known)
        more = st.dictionaries(TEXT, JSON, max_size=1)
        return st.one_of(fixed, fixed, fixed, st.builds(lambda a, b: a | b, fixed, more))

    def requests(self, method: str, path: str, operation: dict[str, Any]) -> st.SearchStrategy:
        """{"path", "query", "headers", "content"} of requests to one operation."""
        places: dict[str, dict[str, st.SearchStrategy]] = {"path": {}, "query": {}, "header": {}}
        for parameter in operation.get("parameters", []):
            value = self.values(parameter["schema"], parameter["name"])
            places[parameter["in"]][parameter["name"]] = value
        kinds = st.sampled_from(["application/json"] * 9 + ["text/plain", "application/json;x"])
        body = st.just(b"")
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            whole = self.values(schema).map(lambda value: json.dumps(value).encode())
            body = st.one_of(whole, whole, whole, whole, st.binary(max_size=30))
        return st.fixed_dictionaries({
            "path": st.fixed_dictionaries(places["path"]).map(lambda v: _filled(path, v)),
            "query": st.fixed_dictionaries({}, optional=places["query"]),
            "headers": st.fixed_dictionaries({}, optional=places["header"]),
            "kind": kinds, "content": body,
        })  # fmt: skip

    def ask(self, method: str, request: dict[str, Any], operation: dict[str, Any]) -> int:
        """Send a request and check its answer; its status."""
        headers = {"content-type": request["kind"]} if method == "post" else {}
        headers |= {key: _ascii(value) for key, value in request["headers"].items()}
        params = {key: _word(value) for key, value in request["query"].items()}
        sent = self.client.build_request(method.upper(), request["path"], params=params,
                                         headers=headers, content=request["content"])  # fmt: skip
        answer = self.client.send(sent, stream=True)
        try:
            events = answer.headers.get("content-type", "").startswith("text/event-stream")
            text = next(answer.iter_text()) if events else answer.read().decode()
        finally:
            answer.close()
        self._check(answer.status_code, text, operation, events)
        return answer.status_code

    def _check(self, status: int, text: str, operation: dict[str, Any], events: bool) -> None:
        assert status != 500 and "Traceback" not in text, text
        assert str(status) in operation["responses"], (status, text)
        known = operation["responses"][str(status)].get("content", {}).get("application/json", {})
        if known.get("schema") and not events:
            body = json.loads(text, parse_constant=_no_constant)
            jsonschema.validate(body, known["schema"] | {"components": self.whole["components"]})


def _no_constant(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="replace").decode()


def _ascii(value: Any) -> str:
    """A header's value that httpx can send."""
    return "".join(c for c in _word(value) if 32 <= ord(c) < 127).strip()[:2000]


def _filled(path: str, values: dict[str, Any]) -> str:
    for name, value in values.items():
        for form in (f"{{{name}}}", f"{{{name}:path}}"):
            path = path.replace(form, quote(_word(value), safe=""))
    return path


def drive(document: Document, method: str, path: str, operation: dict[str, Any],
          examples: int) -> set[int]:  # fmt: skip
    """Send `examples` requests to one operation; the statuses seen."""
    seen: set[int] = set()

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
              phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(document.requests(method, path, operation))
    def run(request):
        seen.add(document.ask(method, request, operation))

    run()
    return seen
