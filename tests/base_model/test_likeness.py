"""What a miniature imitates: the configured model's architecture, template and special tokens."""

import json
import re

import pytest

from base_model import family_templates, likeness, miniature
from config import loader
from support.checkout import ROOT
from support.model_files import CHAT, LLAMA, PHI3, tokenizer_json, write_model, write_tokenizer


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """settings(name): the configuration of a model below this test's work folder."""
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))

    def named(name: str, *words: str):
        return loader.load("training_config.yaml", [f"model.model_name_or_path={name}", *words])

    return named


@pytest.mark.parametrize("family", family_templates.CHAT_TEMPLATES)
def test_every_family_has_a_template_and_tokens(family):
    like = likeness.named(family)
    assert like.tokens["eos"] in like.tokens["all"] and like.tokens["pad"] in like.tokens["all"]
    assert "add_generation_prompt" in like.template or family == "mistral"


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("models/Llama-3.1-8B-Instruct", "llama"),
        ("models/Mistral-7B-Instruct-v0.3", "mistral"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("google/gemma-2-9b-it", "gemma2"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi3"),
        ("microsoft/phi-4", "phi3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama"),
        ("state-spaces/mamba-130m-hf", "mamba"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral"),
    ],
)
def test_a_model_that_is_not_here_is_known_by_its_name(settings, name, model_type):
    like = likeness.of(None, settings(name))
    assert (like.model_type, like.note) == (model_type, "")


def test_a_name_that_says_nothing_is_a_llama_and_that_is_said(settings):
    like = likeness.of(None, settings("models/mine"))
    assert like.model_type == "llama" and "models/mine is not on this machine" in like.note


def test_a_model_that_is_here_gives_its_own_architecture_template_and_tokens(settings, tmp_path):
    template = CHAT.replace("'<|' + m['role'] + '|>'", "'<|start|>' + m['role']")
    text = tokenizer_json(("<s>", "</s>", "<|start|>", "<|unused|>"))
    folder = write_model(tmp_path / "models" / "Phi-mine", PHI3)
    write_tokenizer(folder, text, chat_template=template)
    like = likeness.of(None, settings("models/Phi-mine"))
    assert like.model_type == "phi3" and like.template == template
    assert like.tokens["eos"] == "</s>" and like.tokens["pad"] == "<|pad|>"
    assert "<|start|>" in like.tokens["all"] and "<|unused|>" not in like.tokens["all"]
    other = tmp_path / "other.jinja"
    other.write_text("{{ messages }}")
    again = likeness.of(None, settings("models/Phi-mine", f"model.chat_template={other}"))
    assert again.template == "{{ messages }}"
    assert likeness.of("mistral", settings("models/Phi-mine")).model_type == "mistral"


def build(tmp_path, like, rows=20, steps=2):
    question = {"role": "user", "content": "Weather in Oslo?"}
    answer = {"role": "assistant", "content": "It is wet."}
    talks = [([question, answer], None)] * rows
    return miniature.build(talks, like, tmp_path / "mini", steps, seed=1)


@pytest.mark.remote_env
def test_a_phi3_like_miniature_has_phi3s_modules(settings, tmp_path):
    from base_model import description, lora_modules

    write_tokenizer(write_model(tmp_path / "models" / "Phi-mine", PHI3))
    facts = build(tmp_path, likeness.of(None, settings("models/Phi-mine")))
    assert facts["family"] == "phi3" and "note" not in facts
    names = lora_modules.adaptable(description.read(tmp_path / "mini"))
    assert sorted(names) == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]


@pytest.mark.remote_env
@pytest.mark.parametrize("config", [{"model_type": "of_tomorrow"}, {"model_type": "t5"}])
def test_what_cannot_be_made_small_is_a_llama_and_that_is_said(settings, tmp_path, config):
    write_model(tmp_path / "models" / "odd", LLAMA | config)
    facts = build(tmp_path, likeness.of(None, settings("models/odd")))
    assert facts["family"] == "llama" and f"no miniature of {config['model_type']}" in facts["note"]


@pytest.mark.remote_env
def test_a_template_that_refuses_every_row_ends_in_one_line(settings, tmp_path):
    refusing = "{{ raise_exception('roles must alternate') }}"
    folder = write_model(tmp_path / "models" / "strict", LLAMA)
    write_tokenizer(folder, chat_template=refusing)
    with pytest.raises(Exception, match="refuses every row .*alternate"):
        build(tmp_path, likeness.of(None, settings("models/strict")))


@pytest.mark.remote_env
def test_a_text_part_alone_is_imitated(settings, tmp_path):
    config = {"model_type": "gemma3", "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "intermediate_size": 10240, "vocab_size": 262208, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}  # fmt: skip
    folder = tmp_path / "models" / "gemma"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    facts = build(tmp_path, likeness.of(None, settings("models/gemma")))
    assert facts["family"] == "gemma3_text" and "note" not in facts


def test_the_guide_lists_the_architectures_that_the_tests_build():
    tests = (ROOT / "tests" / "base_model" / "test_families.py").read_text(encoding="utf-8")
    built = re.findall(r'"(\w+)"', tests[tests.index("FAMILIES = (") : tests.index(")  # fmt")])
    text = (ROOT / "docs" / "MODELS.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\w+) \| [\w ]+ \|", text, re.M)
    assert len(built) > 20 and listed == built
