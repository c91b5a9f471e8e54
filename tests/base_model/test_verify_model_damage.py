"""verify_model names what a download left unfinished, and files that do not fit together."""

import json

import pytest

from base_model import safetensors_header
from support.model_files import write_shard
from support.whole_models import LLAMA

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:2b18\nsize 4976698672\n"


def test_an_absent_model_says_how_to_get_it(verify):
    code, checks = verify("Mistral-7B-Instruct-v0.3")
    assert code == 1
    fix = checks["folder"]["fix"]
    assert fix.startswith("hf download mistralai/Mistral-7B-Instruct-v0.3 --local-dir ")
    assert fix.endswith("--exclude consolidated.safetensors")


def test_missing_shards_are_named_in_one_line(model, verify):
    folder = model()
    (folder / "model-00002-of-00004.safetensors").unlink()
    (folder / "model-00003-of-00004.safetensors").unlink()
    code, checks = verify(LLAMA)
    assert code == 1
    assert "nor 1 more, named by the index" in checks["model-00002-of-00004.safetensors"]["found"]


def test_a_shard_that_was_cut_off_says_how_much_is_missing(model, verify):
    shard = model() / "model-00004-of-00004.safetensors"
    shapes = {t: list(s) for t, (_, s) in safetensors_header.read(shard).items()}
    size = shard.stat().st_size
    shard.unlink()
    write_shard(shard, shapes, size)
    with open(shard, "r+b") as f:
        f.truncate(size - 1_000_000)
    code, checks = verify(LLAMA)
    assert code == 1
    assert checks[shard.name]["found"].startswith("cut off: 1,000,000 of 1,168,")
    assert checks[shard.name]["fix"].startswith("rm ")


def test_a_git_lfs_pointer_is_not_taken_for_weights(model, verify):
    shard = model() / "model-00001-of-00004.safetensors"
    shard.unlink()
    shard.write_text(POINTER)
    code, checks = verify(LLAMA)
    assert code == 1
    assert checks[shard.name]["found"] == "a Git-LFS pointer, not the file"
    assert "git lfs pull" in checks[shard.name]["fix"]


def test_a_git_lfs_pointer_is_not_taken_for_a_tokenizer(model, verify):
    tokenizer = model() / "tokenizer.json"
    tokenizer.write_text(POINTER)
    code, checks = verify(LLAMA)
    assert code == 1 and "pointer" in checks["tokenizer.json"]["found"]


def test_a_git_lfs_pointer_is_not_taken_for_a_model_of_one_file(small, verify):
    (small / "model.safetensors").write_text(POINTER)
    code, checks = verify("models/small")
    assert code == 1 and "pointer" in checks["model.safetensors"]["found"]


def test_an_unfinished_download_is_seen(model, verify):
    notes = model() / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "x.2b18.incomplete").touch()
    code, checks = verify(LLAMA)
    assert code == 1 and "goes on where it stopped" in checks["download"]["fix"]


def test_an_empty_folder_is_no_model(verify, tmp_path):
    (tmp_path / "models" / LLAMA).mkdir(parents=True)
    code, checks = verify(LLAMA)
    assert code == 1 and "is empty" in checks["folder"]["found"]


def test_an_index_of_another_revision_does_not_fit_its_shards(model, verify):
    index = model() / "model.safetensors.index.json"
    tensor = '"lm_head.weight": "model-0000'
    text = index.read_text()
    index.write_text(text.replace(f"{tensor}4", f"{tensor}3"))
    code, checks = verify(LLAMA)
    assert code == 1
    assert "lm_head.weight" in checks["model-00004-of-00004.safetensors"]["found"]
    assert "lm_head.weight" in checks["model-00003-of-00004.safetensors"]["found"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../../etc/passwd"}}', "\x00"],
)
def test_an_index_that_is_none_is_an_error(text, model, verify):
    (model() / "model.safetensors.index.json").write_text(text)
    code, checks = verify(LLAMA)
    assert code == 1 and checks["model.safetensors.index.json"]["status"] == "fail"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_hidden_layers", 40, "num_hidden_layers 40, 32 in the weights"),
        ("vocab_size", 128000, "(128000, 4096), (128256, 4096) in the weights"),
    ],
)
def test_a_config_of_another_model_does_not_fit(key, value, expected, model, verify):
    path = model() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    code, checks = verify(LLAMA)
    assert code == 1 and expected in json.dumps(checks)


def test_a_cut_off_tokenizer_is_an_error(model, verify):
    path = model() / "tokenizer.json"
    path.write_text('{"model": {"vocab": {"a"')
    code, checks = verify("models/" + LLAMA)
    assert code == 1
    assert "not JSON" in checks["tokenizer.json"]["found"]


def test_no_tokenizer_is_an_error(model, verify):
    folder = model()
    (folder / "tokenizer.json").unlink()
    code, checks = verify(LLAMA)
    assert code == 1 and checks["tokenizer"]["status"] == "fail"


def test_a_model_without_a_chat_template_warns(small, verify):
    (small / "tokenizer_config.json").write_text("{}")
    code, checks = verify("models/small")
    assert code == 0
    assert checks["tokenizer"]["status"] == "warn"
    assert checks["weights"]["found"] == "model.safetensors, 2 tensors"


def test_vectors_of_words_are_no_model_that_writes_text(verify, samples):
    code, checks = verify(samples / "models" / "semhash_model2vec_test_model")
    assert code == 1 and checks["architecture"]["status"] == "fail"
    assert checks["weights"]["found"] == "model.safetensors, 1 tensors"


def test_an_adapter_is_not_taken_for_a_base_model(verify, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    code, checks = verify(tmp_path)
    assert code == 1 and "an adapter" in checks["folder"]["found"]
