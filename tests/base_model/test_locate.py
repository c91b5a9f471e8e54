"""One lookup of a base model for every command, and one identity of what is there."""

import json

import pytest

from base_model import identity, locate
from kit import console, publish
from support.model_files import LLAMA, write_model

REPO, MAIN, OTHER = "meta-llama/Llama-3.1-8B-Instruct", "0e9e" * 10, "abcd" * 10
KNOWN = {"Llama-3.1-8B-Instruct": {"repo": REPO, "revision": OTHER, "files": []}}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache with two snapshots of a model; main is the first."""
    home = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    for commit in (MAIN, OTHER):
        write_model(home / "snapshots" / commit, LLAMA)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(MAIN)
    (home / "refs" / "v2").write_text(OTHER)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    return home / "snapshots"


@pytest.mark.parametrize(
    ("revision", "commit"),
    [(None, MAIN), ("main", MAIN), ("v2", OTHER), (OTHER, OTHER), (OTHER[:7], OTHER)],
)
def test_a_snapshot_is_found_by_branch_tag_or_commit(cache, revision, commit):
    assert locate.find(REPO, revision) == cache / commit
    assert locate.snapshot(cache / commit) == (REPO, commit)


@pytest.mark.parametrize("revision", ["f" * 40, "../..", "v9", "0", "abc"])
def test_a_revision_that_is_not_there_is_nowhere(cache, revision):
    assert locate.find(REPO, revision) is None
    with pytest.raises(console.Problem, match=f"no model at {REPO}"):
        locate.require(REPO, revision)


@pytest.mark.parametrize("name", ["Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct",
                                  "models/Llama-3.1-8B-Instruct", REPO])  # fmt: skip
def test_a_known_name_means_its_repository(cache, name):
    assert locate.find(name, known=KNOWN) == cache / MAIN
    assert locate.find("other/Llama-3.1-8B-Instruct", known=KNOWN) is None


@pytest.mark.parametrize("text", ["", "../snapshots/abc", "..", "/etc", "nowhere"])
def test_a_branch_names_its_snapshot_whatever_the_name_and_nothing_else(cache, text):
    write_model(cache / "abc", LLAMA)
    (cache.parent / "refs" / "main").write_text("abc\n")
    assert locate.find(REPO) == cache / "abc"
    (cache.parent / "refs" / "main").write_text(text)
    assert locate.find(REPO) is None


def test_a_known_revision_is_taken_where_main_is_not_there(cache):
    (cache.parent / "refs" / "main").write_text("9" * 40)
    assert locate.find("Llama-3.1-8B-Instruct", known=KNOWN) == cache / OTHER


def test_a_folder_comes_before_the_cache(cache, tmp_path):
    folder = write_model(tmp_path / "models" / "Llama-3.1-8B-Instruct", LLAMA)
    for name in (REPO, "Llama-3.1-8B-Instruct", str(folder)):
        assert locate.find(name, known=KNOWN) == folder


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "a b/c d", "~nobody/x", None])
def test_odd_names_are_nowhere(cache, name):
    assert locate.find(name) is None


def test_a_card_gives_the_place_or_the_folder_that_was_named(cache, tmp_path):
    folder = write_model(tmp_path / "elsewhere", LLAMA)
    base = {"name": REPO, "revision": MAIN}
    assert locate.of_card(base) == cache / MAIN
    assert locate.of_card(base, folder) == folder
    with pytest.raises(console.Misuse, match="no base model at"):
        locate.of_card(base, tmp_path / "nope")


def test_names_of_cards_hold_no_path_of_this_machine(cache, tmp_path):
    assert locate.relative(str(tmp_path / "models" / "mine")) == "models/mine"
    assert locate.relative("/data/mine") == "models/mine"
    assert locate.relative(REPO) == REPO


# --- identity ------------------------------------------------------------------------------------


def test_another_bit_of_the_weights_is_another_model(tmp_path):
    one = write_model(tmp_path / "one", LLAMA)
    here = identity.identity(one)
    identity.check({"name": "one"} | here, one, "x@v1.0.0")
    data = bytearray((one / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (one / "model.safetensors").write_bytes(data)
    with pytest.raises(identity.Difference, match="its weights differs"):
        identity.check({"name": "one"} | here, one, "x@v1.0.0")


def test_what_older_runs_recorded_of_a_single_file_is_still_compared(tmp_path):
    """They kept the SHA-256 of the whole file, and no sample."""
    folder = write_model(tmp_path, LLAMA)
    old = {"name": "m", "config_sha256": publish.sha256(folder / "config.json"),
           "weights_sha256": publish.sha256(folder / "model.safetensors")}  # fmt: skip
    assert identity.is_recorded(old)
    identity.check(old, folder, "the run")
    with pytest.raises(identity.Difference, match="its weights differs"):
        identity.check(old | {"weights_sha256": "0" * 64}, folder, "the run")


def test_the_identity_of_a_large_file_reads_a_sample_alone(tmp_path, monkeypatch):
    folder = write_model(tmp_path, LLAMA, {"model.embed_tokens.weight": [256, 1 << 20]})
    read = []
    whole = publish.sha256
    monkeypatch.setattr(publish, "sha256", lambda path: read.append(path.name) or whole(path))
    assert identity.identity(folder)["weights_bytes"] > 1 << 29
    identity.as_hash(folder)
    assert set(read) == {"config.json"}


def test_a_model_with_an_index_has_the_hash_that_state_files_hold(tmp_path):
    import hashlib

    folder = write_model(tmp_path, LLAMA)
    index = {"weight_map": {"model.norm.weight": "model.safetensors"}}
    (folder / identity.INDEX).write_text(json.dumps(index))
    old = {"config_sha256": publish.sha256(folder / "config.json"),
           "weights_sha256": publish.sha256(folder / identity.INDEX)}  # fmt: skip
    assert identity.as_hash(folder) == hashlib.sha256(json.dumps(old).encode()).hexdigest()
