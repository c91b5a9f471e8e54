"""An Ollama Modelfile whose TEMPLATE is the training chat template (https://docs.ollama.com).

Ollama's templates are Go's text/template. All texts are written as string constants, so that no
blank or line break is Go's to trim.
"""

from __future__ import annotations

import json

from adapters.exports.chat_format import Format
from kit import console

# architectures that `FROM <safetensors folder>` imports; others need a GGUF file
IMPORTS = ("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "phi3", "qwen2", "qwen3")


def modelfile(
    found: Format, source: str, stop: list[str], bos: str | None, notes: list[str]
) -> str:
    """The Modelfile's text. `source`: after FROM; `bos`: a token that Ollama will add by itself."""
    text = template(without_bos(found, bos) if bos else found)
    if '"""' in text:
        raise console.Problem('the chat template holds """', "write the Modelfile by hand")
    lines = ["# The chat template below renders exactly what the adapter was trained on."]
    lines += [f"# Note: {note}" for note in notes]
    lines += [f"FROM {source}", f'TEMPLATE """{text}"""']
    lines += [f"PARAMETER stop {constant(token)}" for token in stop]
    return "\n".join(lines) + "\n"


def template(f: Format) -> str:
    """`f` as a Go template over .System and .Messages.

    A last message of the assistant is left open, for Ollama to go on with.
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
    """`f` without the token that the tokenizer puts first anyway: it must not stand twice."""
    import dataclasses

    block = f.place == "block"
    system = (f.system[0].removeprefix(bos), f.system[1]) if block else f.system
    return dataclasses.replace(f, start=f.start.removeprefix(bos), system=system)
