"""The documents against the kit: every command stands in them, and all they say exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.checkout import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXT = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
COMMANDS = sorted(
    p for p in (ROOT / "scripts").iterdir() if p.is_file() and p.suffix in (".py", ".sh")
)
TARGETS = re.findall(
    r"^(?!help)([a-z][a-z-]*):.*?(## .*)?$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M
)


@pytest.mark.parametrize(("target", "help_text"), TARGETS)
def test_every_target_has_help_and_stands_in_a_document(target, help_text):
    assert help_text, f"make {target} has no ## help"
    everything = " ".join(" ".join(TEXT.values()).split())
    assert re.search(rf"make {target}\b(?!-)", everything), f"no document says `make {target}`"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda p: p.name)
def test_every_command_stands_in_a_document(command):
    assert any(command.name in text for text in TEXT.values()), command.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_make_target_in_a_document_exists(path):
    named = set(
        re.findall(r"(?:^ +(?:\$ )?|`|-- |&& )make ([a-z][a-z-]+)", code_of(TEXT[path]), re.M)
    )
    assert named <= {name for name, _ in TARGETS}


def code_of(text: str) -> str:
    """Indented and fenced blocks and `code` of a Markdown text."""
    blocks = re.findall(r"^(?: {4}|\t).*$|```.*?```|`[^`\n]+`", text, re.M | re.S)
    return "\n".join(blocks)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_file_in_a_document_exists(path):
    for name in re.findall(r"\b(?:scripts|configs|docs|tests)/[\w./-]+\w", TEXT[path]):
        if "*" not in name and not name.endswith("NAME") and "/NAME" not in name:
            assert (ROOT / name).exists(), f"{path.name} names {name}"
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT[path]):
        assert (path.parent / link).exists(), f"{path.name} links to {link}"


def help_of(name: str, *words: str) -> str:
    program = [sys.executable] if name.endswith(".py") else ["bash"]
    run = [*program, str(ROOT / "scripts" / name), *words, "--help"]
    done = subprocess.run(run, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags_in_documents() -> dict[str, set[str]]:
    """{command: the flags that the documents give it}, for those that are given any."""
    flags_of: dict[str, set[str]] = {}
    for text in TEXT.values():
        for name, rest in re.findall(r"scripts/(\w+\.(?:py|sh))([^\n`|#]*)", code_of(text)):
            rest = rest.split(" -- ")[0]
            flags = set(re.findall(r"(?<=\s)--[a-z][a-z-]+", rest))
            if flags:
                flags_of.setdefault(name, set()).update(flags)
    return flags_of


def test_flags_are_read_out_of_the_documents():
    flags = flags_in_documents()
    assert len(flags) > 10 and "--confirm-run" in flags["lora_trainer.py"]


@pytest.mark.parametrize(("name", "flags"), sorted(flags_in_documents().items()))
def test_every_flag_in_a_document_exists(name, flags):
    text = help_of(name)
    for sub in set(re.findall(r"^    (\w+) ", text, re.M)) | _subcommands(text):
        if flags - set(re.findall(r"--[a-z][a-z-]+", text)):
            text += help_of(name, sub)
    missing = flags - set(re.findall(r"--[a-z][a-z-]+", text))
    assert not missing, f"{name} has no {', '.join(sorted(missing))}"


def _subcommands(text: str) -> set[str]:
    braces = re.search(r"\{([\w,-]+)\}", text)
    return set(braces[1].split(",")) if braces and "--" not in braces[0] else set()


def test_the_readme_fits_one_sitting():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 250
    assert "make rehearse" in "\n".join(lines[:12]) and "make test" in "\n".join(lines[:12])


def test_every_folder_of_the_front_is_explained():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("scripts/", "configs/", "data/raw", "models/", "adapters/", "docs/", "tests/"):
        assert f"\n    {name} " in text


def test_the_top_level_holds_only_what_the_front_names():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this copy is no git checkout")
    top = {Path(line).parts[0] for line in done.stdout.splitlines()}
    assert top <= {
        "Makefile", "setup_local.sh", "setup_remote.sh", "requirements-local.txt",
        "requirements-remote.txt", "environment-remote.yml", "scripts", "configs", "data", "models",
        "adapters", "docs", "tests", "notebooks", "README.md", "LICENSE", "CHANGELOG.md",
        "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml",
        ".gitignore", ".github", ".ci", ".gitattributes",
    }  # fmt: skip
