"""Export a version as a folder for `ollama create NAME -f Modelfile`: merged weights, Modelfile.

The Modelfile's TEMPLATE is the training chat template (https://docs.ollama.com). Ollama's
templates are Go's text/template. All texts are written as string constants, so that Go trims no
space and no line break.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from adapters import load
from adapters.exports import chat_format, merged
from adapters.exports.chat_format import Format
from adapters.version_store import Version
from base_model import chat_template
from base_model import tokenizer as tokenizers
from kit import console, publish

# architectures that `FROM <safetensors folder>` imports; others need a GGUF file
IMPORTS = ("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "phi3", "qwen2", "qwen3")


def export(version: Version, output: Path, **loading: Any) -> dict[str, Any]:
    """Publish a folder for `ollama create NAME -f Modelfile`: merged weights and the Modelfile."""
    base = load.base_of(version, loading.get("base_path"))
    # before the long work: a refusal comes at once
    text = modelfile_of(tokenizers.of_adapter(version.folder, base))
    with publish.folder(merged.free_output(output)) as stage:
        facts = merged.merge_into(version, stage, **loading)
        family = json.loads((stage / "config.json").read_text(encoding="utf-8"))["model_type"]
        if family not in IMPORTS:
            console.warn(
                f"Ollama imports no {family} model from safetensors: export --format gguf, and "
                f"write its file's name after FROM in the Modelfile"
            )
        (stage / "Modelfile").write_text(text, encoding="utf-8")
    return facts | {"folder": str(output), "modelfile": str(output / "Modelfile")}


def modelfile_of(tokenizer) -> str:
    """The Modelfile for a tokenizer's chat template; Problem where that cannot be translated."""
    jinja = tokenizer.chat_template
    if not isinstance(jinja, str):
        fix = "register a run whose tokenizer has one chat template"
        raise console.Problem("no chat template, or several", fix)

    def render(messages, opening: bool) -> str:
        return chat_template.render(tokenizer, messages, prompt=opening)

    layout = chat_format.find(render)
    bos = tokenizer.bos_token
    adds = bool(bos) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    notes = []
    if "tools" in jinja:
        notes.append("tool calls of the training template are not translated")
    if "strftime_now" in jinja:
        notes.append("the date in the template is that of this export")
    if adds and not layout.start.startswith(bos):
        notes.append(f"Ollama puts {bos} first, which the training template does not")
    for note in notes:
        console.warn(note)
    stop = [tokenizer.eos_token] if tokenizer.eos_token else []
    end = next((t for t in tokenizer.get_added_vocab() if layout.assistant[1].startswith(t)), None)
    return modelfile(
        layout, ".", sorted({*stop, *([end] if end else [])}), bos if adds else None, notes
    )


def modelfile(
    layout: Format, source: str, stop: list[str], bos: str | None, notes: list[str]
) -> str:
    """The Modelfile's text. `source`: after FROM; `bos`: a token that Ollama will add by itself."""
    text = template(without_bos(layout, bos) if bos else layout)
    if '"""' in text:
        raise console.Problem('the chat template contains """', "write the Modelfile by hand")
    lines = ["# The chat template below renders exactly what the adapter was trained on."]
    lines += [f"# Note: {note}" for note in notes]
    lines += [f"FROM {source}", f'TEMPLATE """{text}"""']
    lines += [f"PARAMETER stop {constant(token)}" for token in stop]
    return "\n".join(lines) + "\n"


def template(f: Format) -> str:
    """`f` as a Go template over .System and .Messages.

    A last message of the assistant is left open, so that Ollama continues it.
    """
    system = f"{emit(f.system[0])}{{{{ $.System }}}}{emit(f.system[1])}"
    if f.place == "block":
        head, inline = f"{{{{ if .System }}}}{system}{{{{ else }}}}{emit(f.start)}{{{{ end }}}}", ""
    else:
        head = emit(f.start)
        where = {"first user": "$first", "last user": "$last", "none": ""}[f.place]
        inline = f"{{{{ if and $.System {where} }}}}{system}{{{{ end }}}}" if where else ""
    return "".join(
        (
            head,
            "{{ $first := true }}{{ range $i, $m := .Messages }}",
            "{{ $last := eq (len (slice $.Messages $i)) 1 }}",
            '{{ if eq $m.Role "user" }}',
            f"{emit(f.user[0])}{inline}{{{{ $m.Content }}}}{emit(f.user[1])}",
            "{{ $first = false }}",
            '{{ else if eq $m.Role "assistant" }}',
            f"{emit(f.assistant[0])}{{{{ $m.Content }}}}",
            f"{{{{ if not $last }}}}{emit(f.assistant[1])}{{{{ end }}}}" if f.assistant[1] else "",
            "{{ end }}",
            '{{ if and $last (ne $m.Role "assistant") }}',
            f"{emit(f.opening)}{{{{ end }}}}{{{{ end }}}}",
        )
    )


def emit(text: str) -> str:
    """A Go action that prints `text`, nothing for an empty one."""
    return f"{{{{ {constant(text)} }}}}" if text else ""


def constant(text: str) -> str:
    """`text` as a string constant that JSON, Go and Modelfiles read alike."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def without_bos(f: Format, bos: str) -> Format:
    """`f` without the token that the tokenizer puts first anyway: it must not be there twice."""
    block = f.place == "block"
    system = (f.system[0].removeprefix(bos), f.system[1]) if block else f.system
    return dataclasses.replace(f, start=f.start.removeprefix(bos), system=system)
