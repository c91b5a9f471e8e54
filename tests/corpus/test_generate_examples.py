"""Weather dialogues: deterministic, distinct, true to their tools, valid for both templates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from corpus.weather import dialogues, places


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(dialogues.dialogues(1000, 7))


def calls(row: dict) -> list[dict]:
    return [m["tool_calls"][0] for m in row["messages"] if "tool_calls" in m]


def test_the_same_size_and_seed_give_the_same_bytes(command, tmp_path):
    outs = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for out, seed, hashes in zip(outs, (7, 7, 8), ("1", "2", "1"), strict=True):
        done = command("generate_examples.py", "--size", 50, "--seed", seed, "--out", out,
                       env={"PYTHONHASHSEED": hashes})  # fmt: skip
        assert done.returncode == 0, done.stderr
    first, again, other = (out.read_bytes() for out in outs)
    assert first == again != other
    assert first.count(b"\n") == 50


def test_it_lands_in_data_synthetic_and_says_so_as_one_json_object(command, tmp_path):
    done = command("generate_examples.py", "--size", 5, "--json")
    answer = json.loads(done.stdout)
    assert Path(answer["file"]) == tmp_path / "data/synthetic/weather_5_7.jsonl"
    assert answer["rows"] == 5 == Path(answer["file"]).read_bytes().count(b"\n")


@pytest.mark.parametrize("size", ["0", "-3", "1000000", "many"])
def test_a_size_that_makes_no_sense_is_a_misuse(command, size):
    done = command("generate_examples.py", "--size", size)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "--size" in done.stderr


def test_a_folder_as_the_file_to_write_is_a_misuse(command, tmp_path):
    done = command("generate_examples.py", "--size", 3, "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"generate_examples.py: --out {tmp_path} is a folder; name a file in it\n"


def test_a_smaller_size_is_the_beginning_of_a_bigger_one(rows):
    assert list(dialogues.dialogues(20, 7)) == rows[:20]


@pytest.mark.slow
def test_no_two_rows_ask_the_same():
    talks = [row["messages"] for row in dialogues.dialogues(5000, 7)]
    asked = {json.dumps([m["content"] for m in talk if m["role"] == "user"]) for talk in talks}
    assert len(asked) == len(talks) == 5000


def test_the_rows_of_all_kinds_pass_our_own_checks(rows):
    from corpus.judge import validate
    from corpus.rows import Row

    for row in rows:
        validate(Row(row["messages"], row["tools"]))
    counts = [len(calls(row)) for row in rows]
    assert set(counts) == {0, 1, 2, 3, 4}


def test_each_turn_calls_one_tool_with_an_object_and_an_id_of_nine_letters_and_digits(rows):
    known = {t["function"]["name"]: t["function"]["parameters"] for t in dialogues.TOOLS}
    for row in rows:
        ids = [call["id"] for call in calls(row)]
        assert len(set(ids)) == len(ids)
        for message, after in zip(row["messages"], row["messages"][1:], strict=False):
            if "tool_calls" not in message:
                continue
            (call,) = message["tool_calls"]
            assert re.fullmatch("[0-9A-Za-z]{9}", call["id"])
            arguments, schema = call["function"]["arguments"], known[call["function"]["name"]]
            assert isinstance(arguments, dict)
            assert set(schema["required"]) <= set(arguments) <= set(schema["properties"])
            assert after["role"] == "tool" and after["tool_call_id"] == call["id"]


def shape(value) -> object:
    """The keys and kinds of a reply, without its values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) else type(value).__name__


def replies(rows: list[dict], tool: str) -> list[dict]:
    messages = [m for row in rows for m in row["messages"] if m.get("name") == tool]
    return [json.loads(m["content"]) for m in messages]


def test_geocoding_replies_have_only_fields_of_the_real_service(rows, samples):
    real: set[str] = set()
    for name in ("geocoding.json", "geocoding_missing_fields.json"):
        for result in json.loads((samples / "openmeteo" / name).read_text())["results"]:
            real |= set(result)
    made = replies(rows, "geocoding")
    results = [result for reply in made for result in reply.get("results", [])]
    assert {key for result in results for key in result} <= real
    assert any("results" not in reply for reply in made)  # nothing found
    assert any("country_code" not in result for result in results)  # fields are left out, as there


def test_forecast_replies_have_the_shape_of_the_real_service(rows, samples):
    real = shape(json.loads((samples / "openmeteo/single_run.json").read_text()))
    blocks = {"current", "current_units", "daily", "daily_units"}
    head = [key for key in real if not key.startswith(("hourly", "daily"))]
    for reply in replies(rows, "forecast"):
        assert list(reply)[: len(head)] == head
        assert set(reply) - set(head) <= blocks
        for block in {"current", "daily"} & set(reply):
            assert list(reply[block]) == list(reply[f"{block}_units"])
            assert list(reply[block])[0] == "time"
        if "daily" in reply:
            assert len({len(values) for values in reply["daily"].values()}) == 1


def test_the_answer_says_what_the_last_reply_says(rows):
    checked = 0
    for row in rows:
        *_, tool, answer = row["messages"]
        if tool.get("name") != "forecast" or " than in " in answer["content"]:
            continue
        reply = json.loads(tool["content"])
        daily = {name: values[-1] for name, values in reply.get("daily", {}).items()}
        values = reply.get("current", daily)
        numbers = re.findall(r"(\d+\.\d+) (?:mm|cm|km/h|°C)", answer["content"])
        shown = {f"{abs(v)}" for v in values.values() if isinstance(v, float)}
        if numbers and len(calls(row)) <= 2:
            assert set(numbers) <= shown, answer["content"]
            checked += 1
    assert checked > 300


def test_a_place_named_without_region_is_the_biggest_of_that_name(rows):
    cities = places.load()
    checked = 0
    for name in ("Paris", "London", "Portland", "Valencia"):
        same = sorted((c for c in cities if c.name == name), key=lambda c: -c.population)
        others = {c.latitude for c in same[1:]}
        for row in rows:
            questions = " ".join(m["content"] for m in row["messages"] if m["role"] == "user")
            if name not in questions or any((c.admin1 or c.country) in questions for c in same):
                continue
            asked = {call["function"]["arguments"].get("latitude") for call in calls(row)}
            assert not asked & others, questions
            checked += 1
    assert checked > 3


@pytest.mark.remote_env
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_every_row_renders_in_the_tool_template_with_all_its_calls(rows, family):
    from base_model import family_templates

    rendered = [_render(family_templates.CHAT_TEMPLATES[family], row) for row in rows]
    marks = {"llama": '"parameters": {"', "mistral": "[TOOL_CALLS]"}
    for row, text in zip(rows, rendered, strict=True):
        assert text.count(marks[family]) >= len(calls(row))
        assert all(call["function"]["name"] in text for call in calls(row))


@pytest.mark.remote_env
def test_every_row_renders_in_the_template_that_trl_ships_for_llama_3_1(rows):
    trl = pytest.importorskip("trl")
    path = Path(trl.__file__).parent / "chat_templates/llama3_1.jinja"
    if not path.is_file():
        pytest.skip(f"this trl ships no {path.name}")
    template = path.read_text(encoding="utf-8")
    for row in rows:
        text = _render(template, row)
        assert text.count("<|start_header_id|>ipython") == len(calls(row))


def _render(template: str, row: dict) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    (text,), _ = render_jinja_template(
        conversations=[row["messages"]], tools=row["tools"], chat_template=template,
        bos_token="<s>", eos_token="</s>",
    )  # fmt: skip
    return text


def test_another_program_gets_the_rows_from_the_class(tmp_path, monkeypatch):
    from generate_examples import TrainingDataGenerator

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    path = TrainingDataGenerator().generate_dataset(size=20)
    assert path == tmp_path / "data" / "synthetic" / "weather_20_7.jsonl"
    assert len(path.read_text(encoding="utf-8").splitlines()) == 20
    named = TrainingDataGenerator(seed=8).generate_dataset(20, tmp_path / "named.jsonl")
    assert named.read_bytes() != path.read_bytes()
