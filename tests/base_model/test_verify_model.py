"""Models are built with real index files, real sizes and real headers; the weights are holes."""

import json
import subprocess
import sys

import pytest

from support.checkout import ROOT
from support.whole_models import COMMIT, LLAMA, MISTRAL


@pytest.mark.parametrize(("name", "shards"), [(LLAMA, 4), (MISTRAL, 3)])
def test_a_whole_model_is_good(name, shards, model, verify):
    model(name)
    code, checks = verify(name)
    assert code == 0 and not [c for c in checks.values() if c["status"] in ("warn", "fail")]
    assert "have the known sizes" in checks["files"]["found"]
    assert checks["weights"]["found"].startswith(f"{shards} shards, 291 tensors")
    assert checks["config.json"]["found"].endswith("fits the weights")


def test_the_files_of_models_yaml_are_those_of_the_real_repositories(samples):
    from config import loader

    known = loader.load("models.yaml").base_models
    for name in (LLAMA, MISTRAL):
        real = json.loads((samples / "models" / name / "FILES.json").read_text())["files"]
        ours = [(f.path, f.size, f.sha256) for f in known[name].files]
        assert ours == [(f["path"], f["size"], f["sha256"]) for f in real]


def test_a_known_model_is_known_under_any_folder_name(model, verify):
    folder = model()
    folder.rename(folder.parent / "my-base")
    assert "have the known sizes" in verify("models/my-base")[1]["files"]["found"]


def test_mistrals_second_copy_of_the_weights_is_named_and_not_missed(model, verify):
    folder = model(MISTRAL)
    assert "consolidated.safetensors" not in verify(MISTRAL)[1]
    with open(folder / "consolidated.safetensors", "wb") as f:
        f.truncate(14496078512)
    code, checks = verify(MISTRAL)
    assert code == 0
    assert "nothing here reads" in checks["consolidated.safetensors"]["found"]


def test_a_model_in_the_cache_is_found_by_its_repository(builder, verify, tmp_path, monkeypatch):
    home = tmp_path / "hub" / "models--meta-llama--Llama-3.1-8B-Instruct"
    (home / "snapshots" / COMMIT).mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    for path in builder(LLAMA).iterdir():
        (home / "blobs" / f"blob-{path.name}").hardlink_to(path)
        (home / "snapshots" / COMMIT / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    code, checks = verify("meta-llama/Llama-3.1-8B-Instruct")
    assert code == 0 and checks["revision"]["found"] == COMMIT
    (home / "refs" / "v1.0").write_text(COMMIT)
    code, checks = verify("meta-llama/Llama-3.1-8B-Instruct", "--revision", "v1.0")
    assert code == 0 and checks["revision"]["found"] == COMMIT
    (home / "blobs" / "tokenizer.incomplete").touch()
    code, checks = verify("meta-llama/Llama-3.1-8B-Instruct")
    assert code == 1 and "unfinished" in checks["download"]["found"]
    (home / "blobs" / "tokenizer.incomplete").unlink()
    (home / "blobs" / "blob-model-00002-of-00004.safetensors").unlink()
    code, checks = verify("meta-llama/Llama-3.1-8B-Instruct")
    assert code == 1
    assert checks["model-00002-of-00004.safetensors"]["found"] == "a link to nowhere"


def test_a_name_with_a_typing_error_gets_the_nearest_and_exit_2(command):
    result = command("verify_model.py", "Llama-3.1-8B-Instuct")
    assert result.returncode == 2
    assert "did you mean Llama-3.1-8B-Instruct?" in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""


def test_without_a_name_it_takes_the_configured_model(verify):
    code, checks = verify()
    assert code == 1 and LLAMA in checks["folder"]["found"]


def test_it_runs_without_any_package(small):
    words = [sys.executable, "-S", "-E", "scripts/verify_model.py", "--hash", str(small)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "skip  known files" in done.stdout
    assert "ok    hashes" in done.stdout
