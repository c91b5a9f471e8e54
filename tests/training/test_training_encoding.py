"""The loss mask: which tokens are trained, by the model's own template."""

import json

import pytest

from base_model import family_templates, miniature, readiness
from kit import console, jsonl
from support import tiny
from training import encoding, plan

CALL = {
    "id": "abcdef123",
    "type": "function",
    "function": {"name": "forecast", "arguments": {"city": "Oslo"}},
}
TOOLS = [
    {"type": "function", "function": {"name": "forecast", "description": "d", "parameters": {}}}
]
DIALOGUE = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "forecast", "content": '{"t": 3}', "tool_call_id": "abcdef123"},
        {"role": "assistant", "content": "It is 3 degrees."},
        {"role": "user", "content": "Thanks!"},
        {"role": "assistant", "content": "You are welcome."},
    ],
    "tools": TOOLS,
}


@pytest.fixture(scope="module", params=family_templates.CHAT_TEMPLATES)
def tokenizer(request):
    texts = [json.dumps(DIALOGUE)] + [json.dumps(row) for row in tiny.rows(50)]
    return miniature.build_tokenizer(texts, request.param)


def trained_text(tokenizer, coded):
    return tokenizer.decode([i for i in coded["labels"] if i != encoding.IGNORED])


def test_only_the_assistant_is_trained_and_every_turn_ends(tokenizer):
    text = trained_text(tokenizer, encoding.encode(tokenizer, DIALOGUE, 4096))
    assert "It is 3 degrees." in text and "You are welcome." in text and "forecast" in text
    assert "Be brief" not in text and "Weather in Oslo" not in text and "Thanks" not in text
    assert text.count(tokenizer.eos_token) == 3


def test_prompt_and_completion_are_a_conversation(tokenizer):
    row = {"prompt": "Weather in Rome?", "completion": "It is dry."}
    text = trained_text(tokenizer, encoding.encode(tokenizer, row, 4096))
    assert text.strip().startswith("It is dry.") and "Rome" not in text


def test_whole_rows_can_be_trained(tokenizer):
    coded = encoding.encode(tokenizer, DIALOGUE, 4096, assistant_only=False)
    assert coded["labels"] == coded["input_ids"]


def write(path, rows):
    jsonl.write(path, rows)
    return path


def test_cut_and_unsupervised_rows_are_counted(tokenizer, tmp_path):
    long = {"prompt": "word " * 300, "completion": "answer"}
    path = write(tmp_path / "rows.jsonl", [*tiny.rows(5), long])
    coded = encoding.encode_file(path, tokenizer, 64)
    assert (coded.read, coded.cut, coded.unsupervised, len(coded.rows)) == (6, 1, 1, 5)
    assert 0 < coded.supervised < coded.tokens


def test_nothing_to_learn_is_refused(tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "word " * 300, "completion": "answer"}])
    coded = encoding.encode_file(path, tokenizer, 16)
    with pytest.raises(console.Problem, match="0 supervised tokens in 1 rows"):
        encoding.check(coded, path, 16)


def test_an_answer_without_an_end_is_refused(tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", tiny.rows(5))
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{%- for m in messages %}{{ m['role'] + ':' + m['content'] }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{ 'assistant:' }}{%- endif %}"
        )
        with pytest.raises(console.Problem, match="never learn to stop"):
            encoding.check(encoding.encode_file(path, tokenizer, 256), path, 256)
    finally:
        tokenizer.chat_template = template


def test_a_template_that_rewrites_turns_is_refused_with_the_line(tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", [tiny.rows(1)[0], DIALOGUE])
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{{ messages | length }}{%- for m in messages %}{{ m['content'] }}{%- endfor %}"
        )
        with pytest.raises(console.Problem, match=r"rows\.jsonl:1: .*rewrites earlier turns"):
            encoding.encode_file(path, tokenizer, 256)
    finally:
        tokenizer.chat_template = template


def test_a_row_without_messages_is_named(tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", [tiny.rows(1)[0], {"text": "x"}])
    with pytest.raises(console.Problem, match=r"rows\.jsonl:2: unknown row format"):
        encoding.encode_file(path, tokenizer, 256)


def test_the_real_tool_templates_rules_hold(tokenizer, request, tmp_path):
    """Llama takes one call a turn; Mistral wants ids of nine characters."""
    two = json.loads(json.dumps(DIALOGUE))
    two["messages"][2]["tool_calls"] = [CALL, CALL | {"id": "1"}]
    path = write(tmp_path / "rows.jsonl", [two])
    with pytest.raises(console.Problem, match=r"rows\.jsonl:1: calls without results"):
        encoding.encode_file(path, tokenizer, 4096)
    two["messages"][2]["tool_calls"] = [CALL | {"id": "1"}]
    two["messages"][3]["tool_call_id"] = "1"
    assert encoding.encode_file(write(path, [two]), tokenizer, 4096).rows  # ids are made again


def test_keys_that_no_row_uses_and_rows_that_are_not_to_be_learned_are_counted(tokenizer, tmp_path):
    rows = [row | {"score": 3} for row in tiny.rows(3)] + [tiny.rows(4)[3] | {"label": False}]
    coded = encoding.encode_file(write(tmp_path / "rows.jsonl", rows), tokenizer, 4096)
    assert (coded.read, len(coded.rows)) == (4, 3)
    assert coded.unused == {"score": 3} and coded.left_out == {"labelled undesirable": 1}
    text = plan._data_check("train", coded).found
    assert "keys not used: score 3" in text and "left out: labelled undesirable 1" in text


def test_a_turn_of_weight_0_is_outside_the_loss(tokenizer, tmp_path):
    turns = [{"role": "user", "content": "One?"},
             {"role": "assistant", "content": "A mistake.", "weight": 0},
             {"role": "user", "content": "No."},
             {"role": "assistant", "content": "Better."}]  # fmt: skip
    path = write(tmp_path / "rows.jsonl", [{"messages": turns}])
    for assistant_only in (True, False):
        (coded,) = encoding.encode_file(path, tokenizer, 4096, assistant_only).rows
        assert "A mistake." in tokenizer.decode(coded["input_ids"])
        text = trained_text(tokenizer, coded)
        assert "mistake" not in text and "Better." in text
        assert ("One?" in text) == (not assistant_only)


def test_a_template_that_moves_the_tools_trains_each_turn_alone(tmp_path):
    """Mistral v0.3 writes the tools before the last question: earlier turns change."""
    tokenizer = miniature.build_tokenizer([json.dumps(DIALOGUE)], "mistral")
    tokenizer.chat_template = tiny.LATE_TOOLS_TEMPLATE
    turns = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "First."}]
    turns += [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Second."}]
    path = write(tmp_path / "rows.jsonl", [{"messages": turns, "tools": TOOLS}])
    coded = encoding.encode_file(path, tokenizer, 512)
    assert (coded.read, coded.split) == (1, 1)
    assert [trained_text(tokenizer, row) for row in coded.rows] == ["First.</s>", "Second.</s>"]
    assert "Two?" not in tokenizer.decode(coded.rows[0]["input_ids"])


def test_an_answer_of_null_is_refused_with_file_and_line(tokenizer, tmp_path):
    asked = {"role": "user", "content": "Weather in Oslo?"}
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    empty = {"role": "assistant", "content": None}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [asked, called], "tools": TOOLS}) + "\n")
    assert encoding.encode_file(file, tokenizer, 4096).read == 1
    file.write_text(json.dumps({"messages": [asked, empty]}) + "\n")
    with pytest.raises(console.Problem, match=r"rows\.jsonl:1: empty turn"):
        encoding.encode_file(file, tokenizer, 4096)


REFUSES_SHOUTING = (
    "{% for m in messages %}{% if m.content is upper %}{{ raise_exception('no shouting') }}"
    "{% endif %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.mark.parametrize("loud", [1, 3])
def test_all_rows_that_the_template_refuses_are_counted(tmp_path, capsys, loud):
    words = miniature.build_tokenizer(["user: hello assistant: well"], "llama")
    words.chat_template = REFUSES_SHOUTING
    texts = ["a word", *[f"WHAT {'I' * n}" for n in range(loud)], "another word"]
    file = tmp_path / "rows.jsonl"
    jsonl.write(file, [{"prompt": text, "completion": "Well."} for text in texts])
    with pytest.raises(console.Problem, match=r"rows.jsonl:2: .*refuses the row.*shout") as problem:
        encoding.encode_file(file, words, 512)
    more = f"; it refuses {loud} of {loud + 2} rows"
    assert (more in problem.value.text) == (loud > 1)
    assert capsys.readouterr().err.count("no shouting") == (loud if loud > 1 else 0)
    assert "model.chat_template" in problem.value.remedy or "delete" in problem.value.remedy


def test_a_text_that_the_tokenizer_reads_as_a_control_token_is_counted(tmp_path):
    words = miniature.build_tokenizer(["user: hello assistant: well"], "mistral")
    file = tmp_path / "rows.jsonl"
    texts = [
        "The tag <s>struck</s> is old HTML.",
        "What is <unk> here?",
        "And `<s>` in code?",
        "No.",
    ]
    jsonl.write(file, [{"prompt": f"{text} Why?", "completion": "Well."} for text in texts])
    coded = encoding.encode_file(file, words, 512)
    assert coded.control == {"<s>": 2, "</s>": 1, "<unk>": 1}
    (check,) = readiness.of_control_tokens(coded.control)
    assert check.status == "warn" and "<s> in 2 rows" in check.found
    assert readiness.of_control_tokens(encoding.EncodedRows([]).control) == []
