"""The HTML twin of a report."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any


def render(report: dict[str, Any], run: Path | None) -> str:
    return f"<pre>{html.escape(json.dumps(report, indent=1))}</pre>"
