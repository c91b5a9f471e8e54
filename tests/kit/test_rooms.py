"""The house itself: rooms import upwards, files form no circle, a name means one thing."""

from __future__ import annotations

import ast
import collections
import functools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.checkout import ROOT

SCRIPTS, TESTS = ROOT / "scripts", ROOT / "tests"


@functools.cache
def room_order() -> list[str]:
    """The rooms from top to bottom, as CONTRIBUTING.md lists them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)


@functools.cache
def modules() -> dict[str, Path]:
    """{dotted name: file} of every Python file below scripts/."""
    files = {}
    for file in SCRIPTS.rglob("*.py"):
        parts = file.relative_to(SCRIPTS).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


@functools.cache
def tree(file: Path) -> ast.Module:
    """A file's syntax tree; several tests look at each."""
    return ast.parse(file.read_text())


@functools.cache
def definitions(file: Path) -> list[ast.AST]:
    """Every import, class, function and assigned name of a file; one walk for all tests."""
    kinds = ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [
        node
        for node in ast.walk(tree(file))
        if isinstance(node, kinds)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    ]


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """The modules of the house that a file imports, inside functions too."""
    names: set[str] = set()
    for node in definitions(file):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(names & set(modules()))


def room_of(module: str) -> str:
    """The room that a module is in; '' for a command."""
    room = module.partition(".")[0]
    return room if (SCRIPTS / room).is_dir() else ""


def test_contributing_lists_every_room_and_no_other():
    rooms = {p.parent.name for p in SCRIPTS.glob("*/*.py")}  # an old checkout keeps empty folders
    assert len(room_order()) == len(set(room_order())) and set(room_order()) == rooms


def test_every_room_imports_only_from_itself_and_the_rooms_above():
    order = room_order()
    wrong = []
    for name, file in sorted(modules().items()):
        if not (room := room_of(name)):
            continue
        for imported in imports(file):
            other = room_of(imported)
            if not other:
                wrong.append(f"{name} imports the command {imported}")
            elif order.index(other) > order.index(room):
                wrong.append(f"{name} imports {imported}, of a room below")
    assert not wrong, "\n".join(wrong)


def test_no_two_files_import_each_other_in_a_circle():
    graph = {name: imports(file) - {name} for name, file in modules().items()}
    for package in [n for n in graph if modules()[n].name == "__init__.py"]:
        graph.pop(package)
    graph = {name: {n for n in imported if n in graph} for name, imported in graph.items()}
    while leaves := [name for name, imported in graph.items() if not imported]:
        for leaf in leaves:
            del graph[leaf]
        graph = {name: imported - set(leaves) for name, imported in graph.items()}
    in_circle = set(graph)
    while True:  # what only leads into a circle is in none
        needed = set().union(*(graph[n] & in_circle for n in in_circle)) if in_circle else set()
        if needed == in_circle:
            break
        in_circle = needed
    assert not in_circle, f"a circle of imports among {sorted(in_circle)}"


def doubles(named: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: places for name, places in sorted(named.items()) if len(places) > 1}


def test_a_class_name_means_one_thing():
    named = collections.defaultdict(list)
    for module, file in modules().items():
        for node in tree(file).body:
            for name in class_names(node):
                named[name].append(module)
    assert not doubles(named)


def class_names(node: ast.stmt) -> list[str]:
    """The class or the type alias (Name = …, in CamelCase) that a statement makes."""
    if isinstance(node, ast.ClassDef):
        return [] if node.name.startswith("_") else [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name)]


def test_a_file_name_means_one_thing():
    named = collections.defaultdict(list)
    for module, file in modules().items():
        if file.name != "__init__.py" and room_of(module):
            named[file.name].append(module)
    assert not doubles(named)


def python_files() -> list[Path]:
    """Every Python file of scripts/ and tests/."""
    files = [*SCRIPTS.rglob("*.py"), *TESTS.rglob("*.py")]
    return [file for file in files if TESTS / "node_modules" not in file.parents]


HIDING = {"found", "told", "said", "near", "far", "beside", "leave", "tell", "mend"}


@pytest.mark.slow
def test_no_local_or_function_has_a_name_that_hides_what_it_holds():
    """A name is a noun or a verb that tells type and purpose (Check.found is the one exception)."""
    hiding = []
    for file in python_files():
        fields = {
            id(inner)
            for node in definitions(file)
            if isinstance(node, ast.ClassDef)
            for field in node.body
            for inner in ast.walk(field)
            if isinstance(field, ast.AnnAssign | ast.Assign)
        }
        for node in definitions(file):
            name = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
            if isinstance(node, ast.Name):
                name = node.id if id(node) not in fields else ""
            if name.strip("_") in HIDING:
                hiding.append(f"{file.relative_to(ROOT)}:{node.lineno}: {name}")
    assert hiding == []


def test_a_file_has_at_most_350_lines():
    files = [*SCRIPTS.rglob("*.sh"), *ROOT.glob("*.sh"), *TESTS.glob("*.sh"), *python_files()]
    files += [*TESTS.glob("*/*.bats"), *TESTS.glob("*/*.bash"), *TESTS.glob("*/*.sh")]
    assert long_ones((file, len(file.read_text().splitlines())) for file in files) == []


def long_ones(lengths: Iterable[tuple[Path, int]], most: int = 350) -> list[str]:
    return [f"{path.relative_to(ROOT)}: {n} lines" for path, n in lengths if n > most]


def test_a_function_has_at_most_45_lines():
    lengths = (
        (file / node.name, node.end_lineno - node.lineno + 1)
        for file in python_files()
        for node in definitions(file)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert long_ones(lengths, 45) == []


def test_a_command_has_at_most_150_lines():
    files = SCRIPTS.glob("*.py")
    assert long_ones(((f, len(f.read_text().splitlines())) for f in files), 150) == []


@functools.cache
def names_of(file: Path) -> set[str]:
    """What a module of the house may be asked for: its classes, functions, names and imports."""
    names = {node.id for node in definitions(file) if isinstance(node, ast.Name)}
    for node in definitions(file):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif not isinstance(node, ast.Name):
            names.add(node.name)
    return names


def aliases(file: Path) -> dict[str, str]:
    """{name: module of the house} that a file imports, less what it binds anew somewhere."""
    known = {}
    for node in definitions(file):
        if isinstance(node, ast.Import | ast.ImportFrom):
            room = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            known |= {alias.asname or alias.name: f"{room}{alias.name}" for alias in node.names}
    bound = {node.id for node in definitions(file) if isinstance(node, ast.Name)}
    bound |= {node.arg for node in ast.walk(tree(file)) if isinstance(node, ast.arg)}
    return {k: v for k, v in known.items() if v in modules() and k not in bound}


@pytest.mark.slow
def test_what_a_module_is_asked_for_is_there():
    """A name that was moved or renamed is missed also where only a slow test would come by."""
    missing = []
    for file in python_files():
        known = aliases(file)
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = known.get(node.value.id, "")
                names = names_of(modules()[module]) | {"__doc__", "__file__"} if module else ()
                if module and f"{module}.{node.attr}" not in modules() and node.attr not in names:
                    missing.append(f"{file.relative_to(ROOT)}:{node.lineno}: {module}.{node.attr}")
    assert missing == []
