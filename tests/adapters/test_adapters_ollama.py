"""Chat templates become Ollama templates that render the same text, or are refused."""

# ruff: noqa: E501  (templates in one line, as tokenizers ship them)

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from adapters.exports import chat_format, ollama
from kit import console

jinja2 = pytest.importorskip("jinja2", reason="chat templates need jinja2 (.venv-remote)")

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA31 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m['role'] == 'user' %}{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"""
LLAMA2 = """{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.first and messages[0]['role'] == 'system' %}{{ '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' }}{% endif %}{{ m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
QUOTES = """{% for m in messages %}{{ '"' + m['role'] + '\\\\": {{\t' + m['content'] + '"\n' }}{% endfor %}{% if add_generation_prompt %}{{ '"a": ' }}{% endif %}"""
FAMILIES = {"chatml": CHATML, "llama31": LLAMA31, "mistral": MISTRAL, "llama2": LLAMA2,
            "gemma": GEMMA, "quotes": QUOTES}  # fmt: skip

GO = r"""package main

import ("encoding/json"; "os"; "strings"; "text/template")

type Message struct { Role, Content string }
type Case struct { Template string; Messages []*Message }

// As Ollama's template.Execute: all system messages joined, then the template over the map.
func main() {
	var cases []Case
	var out []string
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
	for _, c := range cases {
		var system []string
		for _, m := range c.Messages { if m.Role == "system" { system = append(system, m.Content) } }
		var b strings.Builder
		t := template.Must(template.New("").Option("missingkey=zero").Parse(c.Template))
		data := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": c.Messages,
			"Tools": nil, "Response": ""}
		if err := t.Execute(&b, data); err != nil { panic(err) }
		out = append(out, b.String())
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
"""


def renderer(template: str):
    """render(messages, opening) as transformers does it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(text: str):
        raise jinja2.exceptions.TemplateError(text)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    compiled = environment.from_string(template)

    def render(messages, opening: bool) -> str:
        return compiled.render(messages=messages, add_generation_prompt=opening, bos_token="<s>",
                               eos_token="</s>", raise_exception=refuse)  # fmt: skip

    return render


def template_in(modelfile: str) -> str:
    return modelfile.split('TEMPLATE """')[1].split('"""')[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_texts_around_messages_are_found_for_every_known_family(family):
    render = renderer(FAMILIES[family])
    form = chat_format.find(render)
    expected = {"mistral": "last user", "llama2": "first user", "gemma": "none"}
    assert form.place == expected.get(family, "block")
    for messages in chat_format.probes(form.place != "none").values():
        assert form.render(messages) == render(messages, True)


def go() -> str:
    program = shutil.which("go")
    if not program:
        pytest.skip("no Go compiler on PATH: Ollama's own template language is not run here")
    return program


def test_go_renders_the_modelfile_exactly_as_jinja_renders_the_template(tmp_path):
    """Ollama's template language itself, for every family and conversation."""
    compiler = go()
    cases, expected = [], []
    for jinja in FAMILIES.values():
        render = renderer(jinja)
        form = chat_format.find(render)
        text = template_in(ollama.modelfile(form, ".", ["</s>"], None, []))
        for messages in chat_format.probes(form.place != "none").values():
            cases.append({"Template": text, "Messages": messages})
            expected.append(render(messages, True))
    (tmp_path / "main.go").write_text(GO)
    done = subprocess.run(
        [compiler, "run", tmp_path / "main.go"], input=json.dumps(cases), text=True,
        capture_output=True, env=os.environ | {"GOCACHE": str(tmp_path / "cache"), "GOFLAGS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_a_token_that_the_tokenizer_adds_by_itself_does_not_stand_twice():
    form = chat_format.find(renderer(LLAMA31))
    with_it = template_in(ollama.modelfile(form, ".", [], None, []))
    without = template_in(ollama.modelfile(form, ".", [], "<s>", []))
    assert with_it.count("<s>") == 2 and "<s>" not in without  # with and without a system message
    assert with_it.replace("<s>", "") == without


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "fixed texts"),
        ("{% for m in messages %}{{ loop.index ~ m['role'] + m['content'] }}{% endfor %}", ""),
        (CHATML.replace("m['content']", "m['content'][:20]"), "in its own way"),
        ("{{ messages[-1]['content'] }}", "fixed texts"),
        (CHATML.replace("{% for", "{{ messages | length }}{% for"), ""),
    ],
)
def test_a_template_that_is_more_than_texts_around_messages_is_refused(template, expected):
    with pytest.raises(console.Problem, match="cannot become an Ollama template") as raised:
        chat_format.find(renderer(template))
    assert expected in str(raised.value) and "model_server.py" in str(raised.value)


def test_the_modelfile_names_source_stops_and_what_is_not_translated():
    form = chat_format.find(renderer(CHATML))
    text = ollama.modelfile(form, "./m.gguf", ["<|im_end|>"], None, ["no tools"])
    assert "\nFROM ./m.gguf\n" in text and '\nPARAMETER stop "<|im_end|>"\n' in text
    assert "# Note: no tools\n" in text
    assert len([line for line in text.splitlines() if line.startswith("TEMPLATE")]) == 1
