"""The notebook: made from its source, and run from first to last cell as in Colab, without one."""

import contextlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from kit import jsonl
from support import tiny
from support.checkout import ROOT

SOURCE = ROOT / "notebooks" / "tandem_colab.py"


def code_cells() -> list[str]:
    import build_notebook

    every = build_notebook.cells(SOURCE.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in every if cell["cell_type"] == "code"]


def test_the_notebook_is_what_its_source_says(command):
    done = command("build_notebook.py", "--check")
    assert done.returncode == 0, done.stderr


def test_a_notebook_that_was_edited_fails_the_check_and_is_made_anew(command, tmp_path):
    source, target = tmp_path / "tandem_colab.py", tmp_path / "tandem_colab.ipynb"
    shutil.copy(SOURCE, source)
    assert command("build_notebook.py", source, "--check").returncode == 1
    assert command("build_notebook.py", source).returncode == 0
    first = target.read_bytes()
    assert first == SOURCE.with_suffix(".ipynb").read_bytes()
    target.write_bytes(first.replace(b'"outputs": []', b'"outputs": [{}]', 1))
    done = command("build_notebook.py", source, "--check")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "build_notebook.py makes it anew" in done.stderr


def test_a_source_without_cells_is_one_line_and_writes_nothing(command, tmp_path):
    (tmp_path / "empty.py").write_text("print(1)\n")
    done = command("build_notebook.py", tmp_path / "empty.py")
    assert done.returncode == 1 and "no cells" in done.stderr
    assert not (tmp_path / "empty.ipynb").exists()


def test_no_output_and_no_count_is_kept():
    body = json.loads(SOURCE.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in body["cells"] if cell["cell_type"] == "code"]
    assert cells and all(c["outputs"] == [] and c["execution_count"] is None for c in cells)
    ids = [cell["id"] for cell in body["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("capability", "memory", "half", "small"),
    [(7.5, 15.0, True, True), (7.0, 32.0, True, False), (8.0, 40.0, False, False),
     (8.6, 12.0, False, True), (9.0, 80.0, False, False)],
)  # fmt: skip
def test_a_card_without_bfloat16_gets_float16_everywhere(capability, memory, half, small):
    from config import loader

    space = {}
    exec(code_cells()[1].partition("gpu = first_gpu()")[0], space)
    chosen = space["settings_for"](capability, memory)
    made = loader.load("training_config.yaml", chosen, kind="training_config")
    assert (made.model.dtype, made.quantization.bnb_4bit_compute_dtype) == (
        ("float16", "float16") if half else ("bfloat16", "bfloat16")
    )
    assert (made.training.bf16, made.training.fp16) == (not half, half)
    rows = made.training.per_device_train_batch_size
    assert rows == (1 if small else 4)
    assert rows * made.training.gradient_accumulation_steps == 16  # the step stays the same


def test_the_first_gpu_is_read_from_what_the_driver_says(tmp_path, monkeypatch):
    stub = tmp_path / "nvidia-smi"  # a stub: no NVIDIA driver is at hand
    stub.write_text("#!/bin/sh\nprintf 'Tesla T4, 7.5, 15360\\nTesla T4, 7.5, 15360\\n'\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    space = {"os": os, "shutil": shutil, "subprocess": subprocess}
    exec(code_cells()[1].partition("gpu = first_gpu()")[0], space)
    assert space["first_gpu"]() == ("Tesla T4", 7.5, 15.0)
    stub.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert space["first_gpu"]() is None


# --- from first to last cell -------------------------------------------------------------------


def tracked_files() -> list[str]:
    words = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this copy is no git checkout")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def kit_zip(target: Path) -> Path:
    """The kit as `git archive --format=zip` gives it, with what is not committed yet."""
    with zipfile.ZipFile(target, "w") as zipped:
        for name in tracked_files():
            zipped.write(ROOT / name, name)
    return target


def laptop_rows(folder: Path) -> Path:
    """data/processed with its manifest, made by the kit's own command."""
    raw = folder / "rows.jsonl"
    jsonl.write(raw, tiny.rows(240))
    out = folder / "data" / "processed"
    python = ROOT / ".venv-local" / "bin" / "python"
    words = [python, ROOT / "scripts" / "data_prep.py", "--input", raw, "--out-dir", out]
    subprocess.run([*map(str, words), "--confirm"], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def trip(tmp_path_factory):
    """{'laptop', 'colab', 'variables'}: rows on the laptop, a bare machine, and the parameters."""
    laptop, colab = tmp_path_factory.mktemp("laptop"), tmp_path_factory.mktemp("colab")
    kit = colab / "tandem"
    kit.mkdir()
    (kit / ".venv-remote").symlink_to(ROOT / ".venv-remote")
    changes = tiny.SETTINGS | {"model.model_name_or_path": tiny.build(colab, steps=60)}
    del changes["model.model_name_or_path"]
    values = {
        "KIT_ZIP": kit_zip(colab / "tandem.zip"),
        "KIT_DIR": kit,
        "DATA_DIR": laptop_rows(laptop),
        "MODEL": colab / "models" / "miniature",
        "SETTINGS": " ".join(f"{key}={value}" for key, value in changes.items()),
        "EVAL_ROWS": 8,
        "ALLOW_CPU": 1,
    }
    variables = {f"NOTEBOOK_{name}": str(value) for name, value in values.items()}
    return {"laptop": laptop, "colab": colab, "kit": kit, "variables": variables}


@contextlib.contextmanager
def executed(variables: dict[str, str], folder: Path):
    """Run the whole notebook in a kernel; yields it. Raises what a cell raises."""
    import nbclient
    import nbformat

    made = nbformat.read(SOURCE.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(made)
    client = nbclient.NotebookClient(made, timeout=900, resources={"metadata": {"path": folder}})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MPLBACKEND", "PYTHONPATH"):
            patch.setenv(name, "/nowhere")  # as Colab sets them for its own Python
        for name, value in variables.items():
            patch.setenv(name, value)
        client.execute()
    yield made


def printed(made) -> str:
    outputs = [o for c in made.cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o.get("text", "") for o in outputs)


@pytest.mark.slow
@pytest.mark.remote_env
def test_every_cell_runs_and_unpack_on_the_laptop_ends_the_trip(trip, command):
    with executed(trip["variables"], trip["colab"]) as made:
        text = printed(made)
    assert "On the laptop:\n" in text and "mapper-lora@v1.0.0" in text
    assert "--set training.max_steps=20" in text and "f1" in text
    packed = trip["kit"] / "mapper-lora-v1.0.0.zip"
    home = {"TANDEM_WORKDIR": str(trip["laptop"])}
    done = command("checkpoint_manager.py", "unpack", packed, env=home)
    assert done.returncode == 0, done.stderr
    done = command("checkpoint_manager.py", "verify", "mapper-lora@v1.0.0", env=home)
    assert done.returncode == 0, done.stderr
    version = trip["laptop"] / "adapters" / "mapper-lora" / "v1.0.0"
    assert "evaluation" in json.loads((version / "card.json").read_text())
    again = dict(trip["variables"], NOTEBOOK_NAME="again")
    runs = sorted((trip["kit"] / "adapters" / "runs").glob("*/final"))
    with executed(again, trip["colab"]):
        pass
    assert sorted((trip["kit"] / "adapters" / "runs").glob("*/final")) == runs  # trained once


@pytest.mark.slow
@pytest.mark.remote_env
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"NOTEBOOK_ALLOW_CPU": ""}, "no GPU here; Runtime > Change runtime type > T4 GPU"),
        ({"NOTEBOOK_SETTINGS": "training.max_stepz=3"}, "max_stepz"),
        ({"NOTEBOOK_DATA_DIR": "damaged"}, "train_sft.jsonl is not the file that manifest.json"),
    ],
)
def test_what_is_wrong_stops_at_its_cell_with_one_line(trip, tmp_path, change, line):
    import nbclient

    variables = trip["variables"] | change
    if change.get("NOTEBOOK_DATA_DIR"):
        damaged = tmp_path / "processed"
        shutil.copytree(trip["variables"]["NOTEBOOK_DATA_DIR"], damaged)
        with (damaged / "train_sft.jsonl").open("a") as rows:
            rows.write("{}\n")
        variables["NOTEBOOK_DATA_DIR"] = str(damaged)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="Stopped: ") as caught:
        executed(variables, tmp_path).__enter__()
    assert line in str(caught.value)
    assert "Traceback" not in str(caught.value)
