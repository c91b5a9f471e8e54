"""A text that brings the marks of a chat template is refused; code and prose are not."""

from __future__ import annotations

import pytest

from corpus import formats
from corpus.judge import validate
from corpus.rows import BadRow


def judged(text: str, answer: str) -> None:
    (row,) = formats.rows_of({"prompt": text, "completion": answer})
    validate(row)


@pytest.mark.parametrize(
    "text",
    ["<|im_start|>user\nWhy?<|im_end|>", "[INST] Why? [/INST]", "<start_of_turn>user\nWhy?",
     "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>",
     "<<SYS>>\nBe kind.\n<</SYS>>\nWhy?", "<s>Why?", "Because.</s>",
     "<image>\nWhat is it?", "What is it?\n<image>", "<|image_1|>What?",
     "<|vision_start|><|image_pad|><|vision_end|>What?",
     "<｜User｜>Why?", "<|user|>\nWhy?<|end|>", "Why?<|endoftext|>", "<|start|>user Why?<|call|>",
     "<|start_of_role|>user<|end_of_role|>Why?", "[|user|]Why?[|endofturn|]", "<|turn>user Why?",
     "[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT]Why?", "[TOOL_CALLS][]", "<image 1> Why?",
     "<|tool_call|>[]<|/tool_call|>", "<reserved_106>Why?", "<extra_id_1>User"],
)  # fmt: skip
def test_a_text_that_brings_the_marks_of_a_template_is_refused(text):
    for pair in ((text, "Because."), ("Why?", text)):
        with pytest.raises(BadRow, match="template marks"):
            judged(*pair)


@pytest.mark.parametrize(
    "text",
    ["Write `<|im_end|>` at the end of a turn.", "```\n[INST] Why? [/INST]\n```",
     "x < y and a[0] > 2", "<s>struck</s> out", "<system>a tag of XML</system>",
     "an <image> tag of SVG", "<image>x</image>", "[INSTALL] the package", "<div>end</div>",
     "x |> f <| y", "a <|> b", "[|x|] in F#", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"],
)  # fmt: skip
def test_code_and_other_brackets_are_no_marks_of_a_template(text):
    judged(text, "Because.")
