"""Drive a running server with schemathesis, from its own OpenAPI document.

Every answer must have a documented status, content type and form, none may be a 5xx that is not
documented or a plain 500, and a method that is not listed must be a 405. Which requests a server
takes beyond the form (a model's name, the order of messages) is openapi_fuzz.py's part.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support import tool_environment

PACKAGE = "schemathesis==4.32.5"
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance",
          "response_headers_conformance", "response_schema_conformance",
          "allow_header_conformance", "unsupported_method")  # fmt: skip


def drive(url: str, folder: Path, operations: int, parameters: str = "") -> None:
    """Send about 20 requests of each kind to each of the `operations` that `url` documents.

    folder: an empty one for its files. parameters: lines of schemathesis.toml, values to use.
    """
    python = tool_environment.python_with(PACKAGE, "schemathesis")
    settings = folder / "schemathesis.toml"
    settings.write_text(f"[parameters]\n{parameters}\n")
    command = [python.with_name("schemathesis"), "--config-file", settings, "run",
               f"{url}/openapi.json", "--checks", ",".join(CHECKS), "--max-examples", "20",
               "--seed", "1", "--generation-database", "none", "--continue-on-failure",
               "--no-shrink", "--request-timeout", "60"]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested and int(tested[1]) == operations, done.stdout[-3000:]
