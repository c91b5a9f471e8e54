"""Models are built with real index files, real sizes and real headers; the weights are holes."""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import verify_model
from base_model import safetensors_header
from base_model.safetensors_header import Broken
from support.checkout import ROOT
from support.model_files import write_shard, write_tokenizer

LLAMA, MISTRAL = "Llama-3.1-8B-Instruct", "Mistral-7B-Instruct-v0.3"
COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:2b18\nsize 4976698672\n"


def shape_of(tensor: str, config: dict) -> list[int]:
    """The shape of a Llama or Mistral tensor by its name."""
    hidden, inner, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {
        "embed_tokens": [vocab, hidden],
        "lm_head": [vocab, hidden],
        "q_proj": [hidden, hidden],
        "o_proj": [hidden, hidden],
        "k_proj": [key_value, hidden],
        "v_proj": [key_value, hidden],
        "gate_proj": [inner, hidden],
        "up_proj": [inner, hidden],
        "down_proj": [hidden, inner],
    }
    return next((s for part, s in shapes.items() if part in tensor), [hidden])


@pytest.fixture(scope="module")
def builder(samples, tmp_path_factory):
    """builder(name): a whole model, made once; tests get a copy (holes stay holes)."""
    made: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in made:
            made[name] = make_model(samples / "models" / name, tmp_path_factory.mktemp("m") / name)
        return made[name]

    return build


def make_model(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    sizes = {f["path"]: f["size"] for f in json.loads((folder / "FILES.json").read_text())["files"]}
    folder.chmod(0o755)
    (folder / "FILES.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for shard in sorted(set(index.values())):
        shapes = {t: shape_of(t, config) for t, s in index.items() if s == shard}
        write_shard(folder / shard, shapes, sizes[shard])
    write_tokenizer(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.ljust(sizes[name]))
    return folder


@pytest.fixture
def model(builder, tmp_path):
    """model(name=Llama): a copy of the whole model in this test's models folder, made of links.

    A file that a test changes must be replaced: shards are links to holes of five gigabytes.
    """

    def get(name: str = LLAMA) -> Path:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        for path in builder(name).iterdir():
            if path.suffix == ".safetensors":
                (folder / path.name).hardlink_to(path)
            else:
                (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return get


@pytest.fixture
def verify(capsys, monkeypatch, tmp_path):
    """Run verify_model.py --json, in this process: (exit code, {check: its values})."""
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))

    def run(*arguments):
        code = verify_model.main(["--json", *map(str, arguments)])
        return code, {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}

    return run


# --- whole models -----------------------------------------------------------------------------


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
    (home / "blobs" / "tokenizer.incomplete").touch()
    code, checks = verify("meta-llama/Llama-3.1-8B-Instruct")
    assert code == 1 and "unfinished" in checks["download"]["found"]
    (home / "blobs" / "tokenizer.incomplete").unlink()
    (home / "blobs" / "blob-model-00002-of-00004.safetensors").unlink()
    code, checks = verify("meta-llama/Llama-3.1-8B-Instruct")
    assert code == 1
    assert checks["model-00002-of-00004.safetensors"]["found"] == "a link to nowhere"


# --- what goes wrong with downloads -------------------------------------------------------------


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


# --- what does not fit together -----------------------------------------------------------------


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
    ("key", "value", "said"),
    [
        ("num_hidden_layers", 40, "num_hidden_layers 40, 32 in the weights"),
        ("vocab_size", 128000, "(128000, 4096), (128256, 4096) in the weights"),
    ],
)
def test_a_config_of_another_model_does_not_fit(key, value, said, model, verify):
    path = model() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    code, checks = verify(LLAMA)
    assert code == 1 and said in json.dumps(checks)


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


# --- revisions and hashes -----------------------------------------------------------------------


def note(folder: Path, file: str, commit: str, etag: str = "0" * 40) -> None:
    """What `hf download --local-dir` leaves about one file."""
    path = folder / ".cache" / "huggingface" / "download" / f"{file}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{commit}\n{etag}\n1700000000.0\n")


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


@pytest.fixture
def small(tmp_path):
    """A model of a few kilobytes, as `hf download` leaves it, with true hashes."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "vocab_size": 264,
        "hidden_size": 4,
        "num_attention_heads": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    shapes = {"model.embed_tokens.weight": [264, 4], "model.layers.0.input_layernorm.weight": [4]}
    write_shard(folder / "model.safetensors", shapes)
    data = (folder / "model.safetensors").read_bytes()
    note(folder, "model.safetensors", "a" * 40, hashlib.sha256(data).hexdigest())
    text = (folder / "config.json").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()
    note(folder, "config.json", "a" * 40, blob)
    return folder


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


# --- the header reader --------------------------------------------------------------------------


def raw_header(value: object) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes are no safetensors file"),
        (b"\xff" * 8, "a header of 18,446,744,073,709,551,615 bytes"),
        (struct.pack("<Q", 500) + b"{}", "cut off inside its header"),
        (raw_header(b"{not json"), "its header is not JSON"),
        (raw_header(b"[" * 100_000), "its header is not JSON"),
        (raw_header([1]), "not a JSON object"),
        (raw_header(b'{"a": {}, "a": {}}'), "names a tensor twice"),
        (raw_header({"a": 1}), "a: no dtype, shape and offsets"),
        (raw_header({"a": entry("F33")}) + bytes(8), "unknown dtype 'F33'"),
        (raw_header({"a": entry(shape=(-2,))}) + bytes(8), "cannot be"),
        (raw_header({"a": entry(shape=(True, 2))}) + bytes(8), "cannot be"),
        (raw_header({"a": entry(shape=(3,))}) + bytes(8), "does not fill its 8 bytes"),
        (raw_header({"a": entry(offsets=(4, 12))}) + bytes(12), "begins at 4 where 0 is due"),
        (raw_header({"a": entry(), "b": entry()}) + bytes(8), "b: begins at 0 where 8 is due"),
        (raw_header({"a": entry()}) + bytes(5), "cut off: 3 of 8 bytes of data are missing"),
        (raw_header({"a": entry()}) + bytes(9), "1 bytes too long"),
    ],
)
def test_a_broken_header_says_what_is_wrong(data, said, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(Broken, match=re.escape(said)):
        safetensors_header.read(path)


def test_what_the_safetensors_package_writes_is_read(tmp_path):
    numpy = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    tensors = {
        "a": numpy.zeros((2, 3), "float32"),
        "empty": numpy.zeros((0, 4), "float16"),
        "scalar": numpy.array(1, "int64"),
        "flags": numpy.zeros(5, bool),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert safetensors_header.read(tmp_path / "x.safetensors") == {
        "a": ("F32", (2, 3)),
        "empty": ("F16", (0, 4)),
        "scalar": ("I64", ()),
        "flags": ("BOOL", (5,)),
    }


# --- calling it ---------------------------------------------------------------------------------


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
