"""What a chat template leaves out of a row, writes twice, or opens without closing is said."""

import json
from pathlib import Path

import pytest

import verify_model
from base_model import chat_template, readiness, rendered_rows, tokenizer
from support.model_files import CHAT, LLAMA, write_model, write_tokenizer

QUESTION = {"role": "user", "content": "Which city is the capital of Norway, please?"}
ANSWER = {"role": "assistant", "content": "It is Oslo."}
SYSTEM = {"role": "system", "content": "Answer in one short sentence."}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
FUNCTION = {"name": "get_weather", "arguments": {}}
CALL = {"role": "assistant", "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}]}  # fmt: skip
REASONED = ANSWER | {"reasoning_content": "Oslo, I know."}
CODE = {"role": "assistant", "content": "    return x + 1"}
THINKING = {"role": "assistant", "content": "<think>Norway: Oslo.</think>It is Oslo."}


def write(messages, **changes):
    """The messages as `role: content` lines; a change replaces one role's content."""
    return "\n".join(f"{m['role']}: {changes.get(m['role'], m.get('content'))}" for m in messages)


@pytest.mark.parametrize(
    ("messages", "text", "faults"),
    [
        ([SYSTEM, QUESTION, ANSWER], None, []),
        ([SYSTEM, QUESTION, ANSWER], write([QUESTION, ANSWER]), ["leaves out text of the system"]),
        ([QUESTION, THINKING], "Q: " + QUESTION["content"] + " A: It is Oslo.",
         ["leaves out what stands before </think> in answers"]),
        ([QUESTION, REASONED], None, ["leaves out reasoning"]),
        ([QUESTION, ANSWER | {"content": [{"type": "text", "text": "It is Oslo."}]}],
         write([QUESTION, ANSWER]), []),
        ([QUESTION, CALL], None, ["leaves out tool calls"]),
        ([QUESTION, CALL], write([QUESTION]) + ' {"name": "get_weather"}', []),
        ([QUESTION, ANSWER], write([QUESTION, QUESTION, ANSWER]),
         ["writes text of the user twice"]),
        ([QUESTION, ANSWER, QUESTION, ANSWER], None, []),
        ([{"role": "tool", "content": 'a "b"\nc'}, ANSWER],
         "tool: " + json.dumps('a "b"\nc') + write([ANSWER]), []),
        ([QUESTION, CODE], None, []),
        ([QUESTION, CODE], write([QUESTION]) + "return x + 1",
         ["leaves out the indentation that answers begin with"]),
        ([QUESTION, ANSWER | {"content": " It is Oslo.\n"}], write([QUESTION, ANSWER]), []),
    ],
)  # fmt: skip
def test_a_text_is_held_against_its_row(messages, text, faults):
    text = write(messages) if text is None else text
    assert rendered_rows.faults(text, messages, None) == faults


def test_tools_that_are_not_in_the_text_are_said():
    text = write([QUESTION, ANSWER])
    assert rendered_rows.faults(text, [QUESTION, ANSWER], [TOOL]) == ["leaves out tools"]
    assert rendered_rows.faults(text + "get_weather", [QUESTION, ANSWER], [TOOL]) == []


WEIGH = {"function": {"name": "weigh", "description": "Weighs a thing in grams",
                      "parameters": {"properties": {"thing": {"type": "string"}}}}}  # fmt: skip
ARGUMENTS = {"thing": 'amber "pepper"\nin a jar', "grams": 71, "exact": True, "names": ["Zoë"]}


@pytest.mark.parametrize(
    ("written", "faults"),
    [
        ("weigh()", ["leaves out arguments of tool calls"]),
        (f"weigh({json.dumps(ARGUMENTS)})", []),
        (f"weigh({json.dumps(json.dumps(ARGUMENTS))})", []),
        (f"weigh({ARGUMENTS!r})", []),
        (f"weigh({json.dumps(ARGUMENTS)})".replace("71", "7"),
         ["leaves out arguments of tool calls"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)])
def test_arguments_that_are_not_in_the_text_are_said(written, faults, arguments):
    call = {"function": {"name": "weigh", "arguments": arguments}}
    messages = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]
    text = write([QUESTION]) + written
    assert rendered_rows.faults(text, messages, None) == faults


@pytest.mark.parametrize(
    ("written", "faults"),
    [
        ("weigh", ["leaves out descriptions of tools"]),
        ("weigh: Weighs a thing in grams", []),
        ("weigh: Weighs a  stone in grams", ["leaves out descriptions of tools"]),
        ("weigh: Weighs a **thing** in grams", []),
    ],
)
def test_what_a_tool_does_is_in_the_text(written, faults):
    messages = [QUESTION, ANSWER]
    assert rendered_rows.faults(write(messages) + written, messages, [WEIGH]) == faults


def test_a_text_of_two_messages_that_is_written_once_is_said():
    messages = [QUESTION, ANSWER, QUESTION, ANSWER]
    faults = rendered_rows.faults(write([QUESTION, ANSWER, ANSWER]), messages, None)
    assert faults == ["leaves out repeated text of the user"]


def test_earlier_answers_that_are_not_trained_may_be_shortened():
    messages = [QUESTION, THINKING, QUESTION, ANSWER]
    text = write(messages, assistant="It is Oslo.")
    assert rendered_rows.faults(text, messages, None) != []
    assert rendered_rows.faults(text, messages, None, trained=3) == []


def test_an_opened_think_is_the_reason_that_is_given():
    error = rendered_rows.mismatch("Q<assistant><think>\n", ANSWER)
    assert "opens a <think>" in str(error) and "--closed-think" in error.remedy
    error = rendered_rows.mismatch("Q1 <think>x</think> A1 Q2<assistant>", ANSWER)
    assert "rewrites earlier turns" in str(error)


@pytest.mark.parametrize("answer", [REASONED, THINKING])
def test_an_answer_that_reasons_is_not_asked_for_reasoning(answer):
    error = rendered_rows.mismatch("Q<assistant><think>\n", answer)
    assert "leaves out the reasoning that this answer has" in str(error)
    assert "give the answers" not in error.remedy and "--closed-think" in error.remedy


@pytest.mark.parametrize("closed", ["<think>\n\n</think>\n\n", "[THINK][/THINK]"])
def test_a_prompt_that_closes_the_thinking_is_the_reason_that_is_given(closed):
    error = rendered_rows.mismatch(f"Q<assistant>{closed}", THINKING)
    assert "closes the thinking" in str(error) and "leave reasoning out" in error.remedy


def test_text_that_no_row_keeps_fails_the_plan():
    def statuses(counts):
        return [check.status for check in readiness.of_faults(counts, 20)]

    assert statuses({"leaves out text of the assistant": 20}) == ["fail"]
    assert statuses({"leaves out text of the user": 19, "leaves out reasoning": 20}) == ["warn"] * 2


# --- rows that a template refuses ----------------------------------------------------------------
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
JOINED = "{% if m.tool_calls %}{{ 'call ' + m.tool_calls[0].function.arguments }}{% endif %}"
LOOP = "{%% for m in messages %%}%s{%% endfor %%}"


@pytest.fixture
def words(tmp_path):
    return tokenizer.load(write_tokenizer(tmp_path))


@pytest.mark.parametrize(
    ("template", "messages", "remedy"),
    [
        (NO_SYSTEM, [SYSTEM, QUESTION, ANSWER], "at the head of the first question"),
        ("{{ raise_exception('no') }}", [SYSTEM, QUESTION, ANSWER], "correct or delete that row"),
        ("{{ raise_exception('no') }}", [QUESTION, ANSWER], "correct or delete that row"),
        (LOOP % "{{ m.content[0].text.x }}", [QUESTION, ANSWER], "use another one"),
        (LOOP % "{{ m.content + 1 }}", [SYSTEM, QUESTION, ANSWER], "use another one"),
    ],
)
def test_the_way_out_is_another_row_or_another_template(template, messages, remedy, words):
    words.chat_template = template
    with pytest.raises(Exception) as refusal:  # noqa: PT011  jinja's own, and Python's
        chat_template.render(words, messages)
    assert remedy in rendered_rows.way_out(words, messages, None, refusal.value)


def test_a_template_that_joins_arguments_to_its_text_gets_them_as_json(words):
    words.chat_template = LOOP % JOINED
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "Zoë", "n": 1}}}
    messages = [QUESTION, ANSWER | {"tool_calls": [call]}]
    assert chat_template.render(words, messages) == 'call {"city": "Zoë", "n": 1}'
    assert call["function"]["arguments"] == {"city": "Zoë", "n": 1}


@pytest.fixture
def thinking(tmp_path, monkeypatch):
    """A model folder whose template opens a <think>, as DeepSeek-R1's does."""
    opened = CHAT.replace("'<|assistant|>' }}{% endif", "'<|assistant|><think>\\n' }}{% endif")
    assert opened != CHAT
    folder = write_tokenizer(write_model(tmp_path / "models" / "r1", LLAMA), chat_template=opened)
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    return folder


@pytest.mark.slow
def test_the_way_out_that_is_printed_works(thinking, tmp_path, capsys):
    from training import encoding

    row = {"messages": [QUESTION, ANSWER]}
    with pytest.raises(rendered_rows.Mismatch, match="opens a <think>"):
        encoding.encode(tokenizer.load(thinking), row, 999)
    out = tmp_path / "plain.jinja"
    assert verify_model.main([str(thinking), "--closed-think", str(out)]) == 0
    assert "model.chat_template" in capsys.readouterr().out
    words = tokenizer.with_template(thinking, str(out))
    coded = encoding.encode(words, row, 999)
    trained = words.decode([i for i in coded["labels"] if i >= 0])
    assert trained == "It is Oslo.</s>"
    with pytest.raises(Exception, match=r"plain\.jinja exists"):
        verify_model.main([str(thinking), "--closed-think", str(out)])


def test_a_template_that_opens_none_is_not_rewritten(tmp_path):
    folder = write_tokenizer(write_model(tmp_path / "plain", LLAMA))
    with pytest.raises(Exception, match="opens no <think>"):
        verify_model.main([str(folder), "--closed-think", str(tmp_path / "x.jinja")])


@pytest.mark.remote_env
def test_every_template_that_trl_ships_trains_or_has_a_way_out(tmp_path):
    """Of the text templates, each continues its own prompt once its <think> is closed."""
    import trl

    words = tokenizer.load(write_tokenizer(tmp_path))
    closed = []
    for file in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja")):
        template = file.read_text(encoding="utf-8")
        if "llava" in file.name:  # takes content as parts alone
            continue
        for text in (template, rendered_rows.closed_think(template)):
            if text is None:
                continue
            words.chat_template = text
            prompt = chat_template.render(words, [QUESTION], prompt=True)
            whole = chat_template.render(words, [QUESTION, ANSWER])
            if whole.startswith(prompt):
                break
            assert "opens a <think>" in str(rendered_rows.mismatch(prompt, ANSWER)), file.name
            closed.append(file.name)
        assert whole.startswith(prompt), file.name
    assert len(closed) == 12


# --- the template's hash -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    ["{{ messages }}", {"default": "{{ messages }}", "tool_use": "{{ tools }}{{ messages }}"}],
)
def test_a_tokenizer_and_its_saved_folder_have_one_hash(tmp_path, template):
    words = tokenizer.load(write_tokenizer(tmp_path / "base"))
    words.chat_template = template
    words.save_pretrained(tmp_path / "saved")
    saved = chat_template.of_folder(tmp_path / "saved")
    assert chat_template.sha256(saved) == chat_template.sha256(words.chat_template)
    listed = [{"name": "default", "template": "{{ messages }}"}]
    assert chat_template.sha256(listed) == chat_template.sha256("{{ messages }}")
    assert chat_template.sha256(None) is None
