"""Cards and configurations from elsewhere: whatever they hold is one line, and hides no other.

Hypothesis puts odd values into a sound card and a sound adapter_config.json.
"""

from __future__ import annotations

import copy
import json
import shutil

import pytest

from adapters import (
    card_schema,
    effect,
    gate,
    names,
    peft_config,
    selection,
    version_store,
    weights,
)
from kit import console, json_files
from support import adapter_runs

hypothesis = pytest.importorskip("hypothesis", reason="drawn values need .venv-local")
st = hypothesis.strategies
NUMBERS = st.one_of(st.integers(), st.integers(10**300, 10**301), st.floats(), st.booleans())
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "../../x", "/etc/passwd", "a\nb", "\x1b[2J", "v1.0.0", "x" * 5000,
                     "v" + "1" * 5000, "(", "C:\\x", "\u202eabc", "ａ"]),
)  # fmt: skip
VALUES = st.recursive(
    st.none() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """(work folder, sound card): two versions, the second with every optional section."""
    work = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEM_WORKDIR", str(work))
        from adapters import register

        root = work / "adapters"
        register.register(root, adapter_runs.run(work, "good"), "other")
        run = adapter_runs.run(work, "odd", report=adapter_runs.report(0.5, base=0.4, loss=1.0))
        version = register.register(root, run, "odd", force="why not")
        card = json.loads((version.folder / "card.json").read_text())
    (version.folder / "card.json").chmod(0o644)
    return work, card


def paths_of(value, path=()):
    """Every place in a JSON value, as keys from the top."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_of(inner, (*path, key))


def replaced(value, path, new):
    """A copy of `value` with `new` at a path; the whole of it for an empty path."""
    if not path:
        return new
    value = copy.deepcopy(value)
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return value


def use_everything(root) -> list[dict]:
    """What list, registry and every reader of a card do with all versions; the rows of list."""
    from adapters import commands, diff, verification
    from config import loader

    rows = []
    for name in version_store.all_names(root):
        for version in version_store.versions(root, name):
            rows.append(commands.facts(version))
            commands._row(rows[-1])
            for work in (verification.verify, effect_of, selection.refusal,
                         lambda v: diff.diff(v, v), shown):  # fmt: skip
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("adapters.version_store.console.warn", lambda text: None)
                    try:
                        work(version)
                    except console.Problem as problem:
                        assert "\n" not in str(problem)
    config = loader.load("models.yaml", kind="models")
    for entry in config.entries.values():
        entry.checkpoint = "odd@^1.0"
        selection.candidates(root, entry)
    assert selection.select(root, config).name
    return rows


def effect_of(version):
    effect.of(version.folder).check_serve(version.reference)


def shown(version):
    import argparse

    from adapters import commands

    commands.show(version.folder.parents[1], argparse.Namespace(reference=version.reference))


@pytest.mark.slow
@hypothesis.settings(
    max_examples=60, deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
@hypothesis.given(data=st.data())
def test_an_odd_card_is_one_line_and_hides_no_other_version(versions, monkeypatch, data):
    work, card = versions
    monkeypatch.setenv("TANDEM_WORKDIR", str(work))
    path = data.draw(st.sampled_from(sorted(paths_of(card))), label="where")
    odd = replaced(card, path, data.draw(VALUES, label="what"))
    folder = work / "adapters" / "odd" / "v1.0.0"
    (folder / "card.json").write_text(json.dumps(odd))
    rows = use_everything(work / "adapters")
    assert [row["reference"] for row in rows] == ["odd@v1.0.0", "other@v1.0.0"]
    assert "error" not in rows[1]


@pytest.mark.parametrize(
    "text",
    ["", "null", "[" * 100000, '{"a":' * 5000 + "1" + "}" * 5000, '{"format": 1' + "0" * 5000 + "}",
     '{"format": 1, "name": "odd", "version": "v1.' + "0" * 5000 + '"}', "\xff", '{"a": 1e999}',
     '{"format": NaN}', '{"name": "\\ud800"}', " " * (17 << 20)],
    ids=["empty", "null", "lists", "objects", "digits", "version", "bytes", "large", "nan", "half",
         "long"],
)  # fmt: skip
def test_texts_that_no_register_writes_are_damaged(versions, monkeypatch, text):
    work, _ = versions
    monkeypatch.setenv("TANDEM_WORKDIR", str(work))
    folder = work / "adapters" / "odd" / "v1.0.0"
    (folder / "card.json").write_bytes(text.encode("latin-1"))
    rows = use_everything(work / "adapters")
    assert "card.json: damaged" in rows[0]["error"] and "error" not in rows[1]


@pytest.mark.parametrize("what", ["card.json", "v1.0.0.retired.json", "v1.0.0.canary.json"])
@pytest.mark.parametrize("form", ["a folder", "[]", '{"reason": 5, "ok": "yes"}', "{"])
def test_files_that_are_something_else_hide_nothing(versions, monkeypatch, what, form):
    work, card = versions
    monkeypatch.setenv("TANDEM_WORKDIR", str(work))
    folder = work / "adapters" / "odd" / "v1.0.0"
    (folder / "card.json").write_text(json.dumps(card))
    file = folder / what if what == "card.json" else folder.parent / what
    if form == "a folder":
        file.unlink(missing_ok=True)
        file.mkdir()
    else:
        file.write_text(form)
    try:
        rows = use_everything(work / "adapters")
        assert "error" not in rows[1]
        version = version_store.versions(work / "adapters", "odd")[0]
        if "canary" in what:  # what cannot be read is no pass
            assert "canary" in selection.refusal(version)
        if "retired" in what:
            assert selection.refusal(version).startswith("retired: not known")
    finally:
        file.rmdir() if form == "a folder" else file.unlink()


@pytest.mark.parametrize(
    ("key", "value"),
    [("files", {}), ("files", {"a": {"sha256": "0" * 64, "bytes": 1}}), ("version", "v1.0.0.0"),
     ("name", "../x"), ("created", "2026-99-99T00:00:00Z"), ("created", "yesterday"),
     ("data", None), ("bump", {}), ("base", {"name": "a\nb"}), ("config", {"quantization": 4})],
)  # fmt: skip
def test_what_readers_count_on_is_in_the_schema(versions, key, value):
    _, card = versions
    assert card_schema.problem(card) is None
    assert card_schema.problem(card | {key: value})


@pytest.mark.parametrize("name", ["README.MD", "../x", "a//b", "Card.json", "a\\b", "é", ".hidden"])
def test_names_of_files_in_a_card_are_plain_and_differ_on_every_disk(versions, name):
    _, card = versions
    assert "README.md" in card["files"] or card["files"].setdefault(
        "README.md", {"sha256": "0" * 64, "bytes": 1}
    )
    entry = {"sha256": "0" * 64, "bytes": 1}
    assert card_schema.problem(card | {"files": card["files"] | {name: entry}})


@hypothesis.given(st.text("v0123456789.^~<>=,* \u0661\uff11", max_size=12) | TEXTS)
def test_any_reference_is_a_version_or_a_misuse(wanted):
    try:
        matching = names.matches(names.split(f"a@{wanted}")[1], [(1, 0, 0), (1, 20, 3)])
    except console.Misuse as misuse:
        assert str(misuse)
    else:
        assert set(matching) <= {(1, 0, 0), (1, 20, 3)}


def test_digits_of_other_scripts_make_no_second_folder_of_a_version():
    assert names.number("v1.0.0") == (1, 0, 0)
    assert names.number("v\uff11.0.0") is None


@pytest.mark.slow
@hypothesis.settings(
    max_examples=150, deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
@hypothesis.given(
    key=st.sampled_from(sorted([*peft_config.KEYS, "r", "peft_type", "arrow_config", "unknown"])),
    value=VALUES,
)
def test_an_odd_adapter_configuration_is_understood_or_one_line(tmp_path, key, value):
    folder = adapter_runs.peft_folder(tmp_path / "a", **{key: value})
    base = adapter_runs.base(tmp_path / "base")
    try:
        weights.check_shapes(weights.inspect(folder), base)
        result = effect.of(folder)
        assert result.company in (effect.TOGETHER, effect.IN_TURNS, effect.ALONE)
        for check in (result.check_load, result.check_serve, lambda r: result.check_merge(r, base)):
            check("a@v1.0.0")
    except console.Problem as problem:
        assert str(problem) and "\n" not in str(problem)


@pytest.mark.slow
@hypothesis.given(VALUES)
def test_what_the_reader_returns_is_finite_and_can_be_written_again(value):
    try:
        parsed = json_files.parse(json.dumps({"a": value}).encode())
    except ValueError as error:
        assert str(error)
    else:
        json.dumps(parsed, allow_nan=False)


@pytest.mark.slow
@hypothesis.given(st.dictionaries(TEXTS, st.dictionaries(st.sampled_from(["value", "low", "high"]),
                                                         VALUES), max_size=3))  # fmt: skip
def test_a_report_s_metrics_are_numbers_or_left_out(section):
    for entry in gate._metrics(section).values():
        assert card_schema.are_measures({"x": entry})


RUN_FILES = {
    "status.json": '{"state": %s, "run_id": %s, "step": %s, "loss": %s}',
    "run.json": '{"base_model": %s, "train_sha256": %s, "base_identity": %s, "data": %s}',
    "report.json": '{"dataset": %s, "metrics": %s, "base": %s, "rag": %s}',
    "config.yaml": "model: %s\nquantization: %s\ntraining: %s\nx: %s\n",
    "final/adapter_config.json": '{"peft_type": "LORA", "r": %s, "bias": %s, "a": [%s, %s]}',
    "final/tokenizer_config.json": '{"chat_template": %s, "a": [%s, %s, %s]}',
}


@pytest.mark.slow
@hypothesis.settings(
    max_examples=100, deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
@hypothesis.given(file=st.sampled_from(sorted(RUN_FILES)), values=st.tuples(*[VALUES] * 4))
def test_an_odd_run_is_registered_or_refused_in_one_line(tmp_path, monkeypatch, file, values):
    from adapters import register

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    run = adapter_runs.run(tmp_path, "odd", report=adapter_runs.report(0.5))
    (run / file).write_text(RUN_FILES[file] % tuple(map(json.dumps, values)))
    shutil.rmtree(tmp_path / "adapters" / "odd", ignore_errors=True)
    try:
        version = register.register(tmp_path / "adapters", run, "odd", force="drawn values")
    except console.Problem as problem:
        assert "\n" not in str(problem)
    else:
        assert card_schema.problem(version.card) is None


@pytest.mark.parametrize(
    "text", ['x: "\\ud800"\n', "x: 2026-01-01\n", "x: .nan\n", "x: [1, !!set {a, b}]\n"]
)
def test_yaml_that_json_has_no_word_for_is_kept_as_text(tmp_path, monkeypatch, text):
    from adapters import card

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    (tmp_path / "config.yaml").write_text(text)
    config = card.read_config(tmp_path)
    json.dumps(config, allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_anchors_that_expand_without_end_are_refused(tmp_path, monkeypatch):
    from adapters import card

    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(console.Problem, match="config.yaml: "):
        card.read_config(tmp_path)
