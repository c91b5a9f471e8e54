"""The tokenizer is the one that the model was trained with, or it is said or repaired."""

import json

import pytest

from base_model import description, tokenizer, tokenizer_checks
from kit import console
from support.model_files import CHAT, LLAMA, tokenizer_json, write_model, write_tokenizer

# GPT-2's pattern joins digits; Mistral's own takes them one by one
WRONG = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def made(folder, config=None, text=None, **tokenizer_config):
    """(tokenizer, Description) of a folder with these files."""
    write_model(folder, LLAMA | {"vocab_size": 320} | (config or {}))
    write_tokenizer(folder, text, **tokenizer_config)
    return tokenizer.load(folder), description.read(folder)


def test_an_ordinary_tokenizer_gives_no_alarm(tmp_path):
    words, model = made(tmp_path)
    checks = tokenizer_checks.checks(words, model)
    assert [c.status for c in checks] == ["ok"], checks
    assert tokenizer.notes(words) == ([], [])


def test_a_byte_level_tokenizer_under_llamas_class_keeps_its_spaces(tmp_path):
    """transformers builds LlamaTokenizer again with SentencePiece's rules: every space is lost."""
    words, model = made(tmp_path, tokenizer_class="LlamaTokenizerFast")
    assert not tokenizer.lost(words, tokenizer.PLAIN)
    assert "loses spaces" in tokenizer.notes(words)[1][0]
    (check,) = tokenizer_checks.checks(words, model)
    assert check.status == "ok" and "repaired" in check.found
    words.save_pretrained(tmp_path / "saved")
    assert not tokenizer.lost(tokenizer.load(tmp_path / "saved"), tokenizer.PLAIN)


@pytest.mark.slow
def test_mistrals_incorrect_pattern_is_replaced_where_it_is_in_use(tmp_path):
    config = {"model_type": "mistral", "transformers_version": "4.51.0", "vocab_size": 100_352}
    words, model = made(tmp_path, config, tokenizer_json(split=WRONG, more=100_000))
    assert "regular expression" in tokenizer.notes(words)[1][0]
    state = json.loads(words.backend_tokenizer.pre_tokenizer.__getstate__())
    assert state["pretokenizers"][0]["pattern"]["Regex"] != WRONG
    assert not tokenizer.lost(words, tokenizer.PLAIN)


@pytest.mark.slow
def test_a_mistral_tokenizer_without_a_pattern_stays_as_it_is(tmp_path):
    config = {"model_type": "mistral", "transformers_version": "4.42.0", "vocab_size": 100_352}
    words, model = made(tmp_path, config, tokenizer_json(more=100_000))
    assert tokenizer.notes(words) == ([], [])
    assert [c.status for c in tokenizer_checks.checks(words, model)] == ["ok"]


def test_what_loses_spaces_for_good_is_refused(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", "return", "x", "def", "two"])}
    lossy = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    words, model = made(tmp_path, text=lossy.to_str(), unk_token="<unk>")
    (check,) = tokenizer_checks.round_trip(words)
    assert check.status == "fail" and "lost" in check.found


def test_scripts_that_do_not_survive_are_named(tmp_path):
    from tokenizers import Tokenizer, decoders, models

    letters = {c: i + 1 for i, c in enumerate(sorted(set(tokenizer.PLAIN)))}
    ascii_only = Tokenizer(models.BPE({"<unk>": 0} | letters, [], unk_token="<unk>"))
    ascii_only.decoder = decoders.Fuse()
    words, _ = made(tmp_path, text=ascii_only.to_str(), unk_token="<unk>")
    (check,) = tokenizer_checks.round_trip(words)
    assert check.status == "warn" and "Greek" in check.found and "Chinese" in check.found


def test_special_tokens_beyond_the_embedding_are_refused(tmp_path):
    words, model = made(tmp_path, {"vocab_size": 256})
    (check,) = tokenizer_checks.rows(words, model)
    assert check.status == "fail" and "eos 257" in check.found and "256" in check.found


def test_ids_of_rows_beyond_the_embedding_are_refused(tmp_path):
    words, model = made(tmp_path, {"vocab_size": 256})
    assert model.rows == 256
    assert tokenizer_checks.ids(255, words, model) == []
    (check,) = tokenizer_checks.ids(256, words, model)
    assert check.status == "fail" and "token 256" in check.found


@pytest.mark.parametrize(
    ("config", "generation", "good"),
    [
        ({"eos_token_id": 257}, None, True),
        ({"eos_token_id": 2}, {"eos_token_id": [2, 258]}, True),
        ({"eos_token_id": 2}, {"eos_token_id": 2}, False),
        ({"eos_token_id": [2, 3]}, None, False),
    ],
)
def test_the_templates_end_token_ends_generation(tmp_path, config, generation, good):
    end = CHAT.replace("eos_token", "'<|end|>'")
    if generation:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    text = tokenizer_json(("<s>", "</s>", "<|end|>"))
    template = CHAT if config["eos_token_id"] == 257 else end
    words, model = made(tmp_path, config, text, chat_template=template)
    checks = tokenizer_checks.end_token(words, model)
    if good:
        assert checks == []
    else:
        assert checks[0].status == "fail" and "<|end|> (258)" in checks[0].found
        assert "258]" in checks[0].fix and "generation_config.json" in checks[0].fix


def test_a_warning_of_transformers_is_shown_and_not_printed(tmp_path, monkeypatch, capfd):
    import logging

    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained

    def warns(*args, **kwargs):
        logging.getLogger("transformers.tokenization_utils").warning("odd\n  tokenizer")
        return real(*args, **kwargs)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", warns)
    words, model = made(tmp_path)
    assert "odd" not in capfd.readouterr().err
    check = tokenizer_checks.checks(words, model)[0]
    assert check.status == "warn" and check.found == "odd tokenizer"


def test_a_broken_tokenizer_is_one_line(tmp_path):
    with pytest.raises(console.Problem, match="no tokenizer could be loaded"):
        made(tmp_path, text='{"model": {}}')


def test_a_class_that_cannot_even_encode_gives_way_to_tokenizer_json(tmp_path):
    words, model = made(tmp_path, tokenizer_class="BertTokenizerFast")
    assert not tokenizer.lost(words, tokenizer.PLAIN)
    (check,) = tokenizer_checks.checks(words, model)
    assert check.status == "ok" and "BertTokenizer loses spaces" in check.found


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}{{ m['content'] }", "unexpected"),
        ([{"name": "tool_use", "template": CHAT}], "no default"),
        (5, "template"),
    ],
)
def test_a_chat_template_that_is_none_is_refused(tmp_path, template, why):
    words, model = made(tmp_path, chat_template=template)
    (check,) = tokenizer_checks.checks(words, model)
    assert (check.name, check.status) == ("chat template", "fail") and why in check.found
    assert "model.chat_template" in check.fix


def test_a_template_that_wants_other_turns_and_one_of_several_are_no_alarm(tmp_path):
    named = [{"name": "default", "template": CHAT}, {"name": "tool_use", "template": CHAT}]
    for i, template in enumerate(("{{ raise_exception('tools only') }}", named)):
        words, model = made(tmp_path / str(i), chat_template=template)
        assert [c.status for c in tokenizer_checks.checks(words, model)] == ["ok"]


def test_a_tokenizer_without_an_end_cannot_pad_and_says_so(tmp_path):
    import types

    made(tmp_path, eos_token=None)
    section = types.SimpleNamespace(
        model_name_or_path=str(tmp_path), model_revision=None, chat_template=None
    )
    with pytest.raises(console.Problem, match="no end token and none to pad with") as refused:
        tokenizer.configured(section)
    assert "eos_token" in refused.value.remedy


def test_other_special_tokens_have_another_hash_and_another_template_has_not(tmp_path):
    def hashed(name, **config):
        return tokenizer.special_tokens_sha256(made(tmp_path / name, **config)[0])

    first = hashed("first")
    assert hashed("same") == first
    assert hashed("template", chat_template="{{ messages }}") == first
    assert hashed("end", eos_token="<|assistant|>") != first
    assert hashed("more", additional_special_tokens=["<|more|>"]) != first
