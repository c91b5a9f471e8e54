#!/usr/bin/env python3
"""Check this machine before it costs anything: environment, disks, configuration, model, GPU.

    python scripts/validate_environment.py --env local            the laptop, in 0.4 s
    python scripts/validate_environment.py --env remote           the GPU host: driver, CUDA, cards
    python scripts/validate_environment.py --env remote --allow-cpu   a laptop that rehearses
    python scripts/validate_environment.py --env local --deep     every file's hash, every import
    python scripts/validate_environment.py --env local --json     one object on stdout

Runs with any Python 3.10 or newer, before any environment is there: what needs packages is then
skipped. Nothing is changed, downloaded or installed; values of secrets are never printed.

Exit codes: 0 good (warnings too), 1 a check failed, 2 called wrongly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from checks import configs, leaks, machine, pins, programs
from checks.probe import ProgramAnswer, StartedPrograms
from kit import console, paths
from kit.report import Check, report
from setup import installed_packages, lock_file

TIMEOUT = 20.0  # seconds for the small questions; they take 0.1


def locks() -> list:
    """Both locks, local first."""
    return [paths.ROOT / f"requirements-{env}.txt" for env in ("local", "remote")]


def ask(env: str, python: str) -> StartedPrograms:
    """Start every other program that the checks need to hear from."""
    commands = {
        "configs": configs.command(python),
        "facts": lock_file.ask_facts(python),
        "rosetta": ["sysctl", "-n", "hw.optional.arm64"],
        **leaks.COMMANDS,
        **programs.commands(),
    }
    variables = leaks.variables() | {"TANDEM_ENV": env, "PYDANTIC_DISABLE_PLUGINS": "__all__"}
    return StartedPrograms(commands, TIMEOUT, cwd=str(paths.ROOT), env=variables)


def check_environment(
    env: str, running: StartedPrograms, fix: str
) -> tuple[list[Check], set[str] | None]:
    """(Python, link, pins of both locks, the names of the installed packages)."""
    facts, folder = _facts(running.answer("facts")), paths.ROOT / f".venv-{env}"
    if not facts:
        text = "the environment's interpreter does not run"
        return [*machine.check_link(env, fix), Check("python", "fail", text, fix)], None
    checks = machine.check_python(facts, running.answer("rosetta").text.strip(), fix)
    checks += machine.check_link(env, fix)
    site, installed = installed_packages.site_packages(folder), None
    if site:
        installed = set(installed_packages.versions(site)[0])
        checks.append(pins.check(folder, locks()[env == "remote"], facts, fix))
    else:
        checks.append(Check("pins", "skip", f"no environment to compare; {fix}"))
    checks.append(pins.check_shared(locks(), facts))
    if env == "remote":
        checks += machine.check_platform(facts) + machine.check_bitsandbytes(folder)
    return checks, installed


def _facts(answer: ProgramAnswer) -> dict[str, str]:
    try:
        return json.loads(answer.text) if answer.code == 0 else {}
    except ValueError:
        return {}


def check_model(configured: dict[str, Any]) -> tuple[list[Check], bool]:
    """(the base model's check, whether a token will be needed to fetch it)."""
    from base_model import folder_checks

    if not configured.get("model"):
        return [Check("base model", "skip", "the configuration does not say which")], False
    check, gated = folder_checks.summary(configured["model"], configured["known"])
    return [check], gated


def check_all(env: str, allow_cpu: bool) -> list[Check]:
    """Every quick check of one environment, in the order of the report."""
    interpreter = paths.ROOT / f".venv-{env}" / "bin" / "python"
    python = str(interpreter) if interpreter.exists() else sys.executable
    setup = f"./setup_{env}.sh"
    running = ask(env, python)
    from checks import gpu, hub, storage  # while the slowest of them, the configurations, runs

    checks, installed = check_environment(env, running, setup)
    folders, broken = machine.configured_folders()
    checks += broken or [machine.check_folders(folders)]
    checks += storage.checks(paths.ROOT, folders)
    if env == "remote":
        checks += gpu.look(locks()[1], allow_cpu=allow_cpu)[0]
    checks += leaks.check(*(running.answer(name) for name in leaks.COMMANDS), root=paths.ROOT)
    checks += programs.checks(running, env) + machine.check_variables()
    loaded, configured = configs.checks(running.answer("configs"), setup)
    model, gated = check_model(configured) if folders else ([], False)
    checks += [*loaded, hub.check_cache(), hub.check_token(gated), *hub.check_transfer(installed)]
    return checks + model


def check_deep(env: str, allow_cpu: bool) -> list[Check]:
    """Every file against its hash, every import, the stack used once; by its own interpreter."""
    name, fix = f".venv-{env}", f"./setup_{env}.sh"
    python = paths.ROOT / name / "bin" / "python"
    if not python.exists():
        return [Check("deep", "skip", f"no environment to look into; {fix}")]
    console.say("hashing every file and importing every package")
    verify = [str(python), "-I", "-S", "scripts/setup/verify_environment.py", "--json", name]
    use = [str(python), "scripts/checks/smoke.py", "--json", env]
    use += ["--gpu"] if env == "remote" and not allow_cpu else []
    return [*_run(verify, fix), *_run(use, fix)]


def _run(command: list[str], fix: str) -> list[Check]:
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    try:
        return [Check(**check) for check in json.loads(done.stdout)["checks"]]
    except (ValueError, KeyError, TypeError):
        last = console.last_line(done.stderr, "no message")
        script = next(word for word in command if word.endswith(".py"))
        text = f"{script} ended with {done.returncode}: {last[:120]}"
        return [Check("deep", "fail", text, fix)]


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--env", choices=("local", "remote"), help="default: the one that is here")
    parser.add_argument("--deep", action="store_true", help="hash, import and use everything too")
    parser.add_argument("--allow-cpu", action="store_true", help="no GPU is no failure (remote)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    env = args.env or paths.environment()
    checks = check_all(env, args.allow_cpu)
    if args.deep:
        checks += check_deep(env, args.allow_cpu)
    return report(checks, args.json, env=env)


if __name__ == "__main__":
    console.run(main)
