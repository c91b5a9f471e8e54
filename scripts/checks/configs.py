"""All configurations at once, in a process of the environment that has PyYAML and pydantic.

The process is started before everything else is looked at, and its answer taken last.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from checks.probe import ProgramAnswer
from kit import console, paths
from kit.report import Check

_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from checks import configs; "
    "configs.print_outcome()"
)


def command(python: str) -> list[str]:
    """What to run for the answer that `checks` reads."""
    return [python, "-c", _START, str(Path(__file__).resolve().parent.parent)]


def print_outcome() -> None:
    """Print {"errors": {file: [line, …]}, "model": …, "known": …} or {"missing": package}."""
    try:
        from config import loader

        outcome: dict[str, Any] = {"errors": {}, "model": None, "known": {}}
        for kind in loader.KINDS:
            file = f"{kind}.yaml"
            if not (paths.ROOT / "configs" / file).is_file():
                continue
            try:
                loaded = loader.load(file)
            except console.Problem as problem:
                outcome["errors"][file] = getattr(problem, "errors", [str(problem)])
                continue
            outcome["errors"][file] = []
            if kind == "training_config":
                outcome["model"] = loaded.model.model_name_or_path
            elif kind == "models":
                outcome["known"] = loaded.model_dump()["base_models"]
    except ModuleNotFoundError as error:
        outcome = {"missing": error.name}
    json.dump(outcome, sys.stdout)


def checks(answer: ProgramAnswer, setup: str) -> tuple[list[Check], dict[str, Any]]:
    """(one check for all configurations, or one per broken file; what `print_outcome` printed)."""
    try:
        outcome = json.loads(answer.text)
    except ValueError:
        last = console.last_line(answer.text, "no answer in time")
        fix = "python scripts/config_loader.py says more"
        return [Check("configs", "fail", f"could not be read ({last[:120]})", fix)], {}
    if "missing" in outcome:
        text = f"not read: {outcome['missing']} is not installed; {setup} brings it"
        return [Check("configs", "skip", text)], {}
    failed = []
    for file, errors in outcome["errors"].items():
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            fix = f"python scripts/config_loader.py --config {file} lists all"
            failed.append(Check(file, "fail", f"{errors[0]}{more}", fix))
    good = Check("configs", "ok", f"{', '.join(outcome['errors'])} load")
    return failed or [good], outcome
