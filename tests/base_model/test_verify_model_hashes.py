"""verify_model compares revisions and hashes."""

import shutil

import pytest

from support.whole_models import COMMIT, LLAMA, MISTRAL, note


def test_the_known_revision_is_good_and_another_warns(model, verify):
    folder = model()
    note(folder, "config.json", COMMIT)
    assert verify(LLAMA)[1]["revision"] == {
        "name": "revision", "status": "ok", "found": COMMIT, "fix": ""
    }  # fmt: skip
    note(folder, "config.json", "f" * 40)
    code, checks = verify(LLAMA)
    assert code == 0 and checks["revision"]["status"] == "warn"


def test_a_revision_that_was_asked_for_must_be_there(model, verify):
    folder = model()
    note(folder, "config.json", COMMIT)
    assert verify(LLAMA, "--revision", COMMIT[:12])[0] == 0
    code, checks = verify(LLAMA, "--revision", "e" * 40)
    assert code == 1 and checks["revision"]["fix"].endswith("--revision " + "e" * 40)


def test_files_of_two_revisions_are_an_error(model, verify):
    folder = model()
    note(folder, "config.json", COMMIT)
    note(folder, "tokenizer.json", "f" * 40)
    code, checks = verify(LLAMA)
    assert code == 1 and "2 revisions" in checks["revision"]["found"]


def test_hashes_that_hf_noted_are_compared_for_any_model(small, verify):
    code, checks = verify("models/small", "--hash")
    assert code == 0 and checks["hashes"]["found"] == "2 files have the known hashes"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_one_flipped_bit_is_found_by_hash_alone(file, small, verify):
    data = bytearray((small / file).read_bytes())
    data[-2] ^= 1
    (small / file).write_bytes(data)
    if file == "model.safetensors":
        assert verify("models/small")[0] == 0
    code, checks = verify("models/small", "--hash")
    assert code == 1
    assert checks[file]["fix"].startswith("rm ")


def test_known_hashes_of_a_known_model_are_compared(samples, verify, tmp_path):
    folder = tmp_path / "models" / MISTRAL
    shutil.copytree(samples / "models" / MISTRAL, folder)
    _, checks = verify(MISTRAL, "--hash")
    assert checks["hashes"]["found"] == "3 files have the known hashes"
    (folder / "generation_config.json").chmod(0o644)
    text = (folder / "generation_config.json").read_text()
    (folder / "generation_config.json").write_text(text.replace("1", "2", 1))
    _, checks = verify(MISTRAL, "--hash")
    assert checks["generation_config.json"]["status"] == "fail"
