# The readable source of tandem_colab.ipynb: edit here, then `python scripts/build_notebook.py`.
# Cells begin with `# %%`; what is above the first one is not in the notebook.

# %% [markdown]
# # Tandem: train a LoRA adapter in Colab
#
# Rows made on the laptop come up, a packed adapter goes back. Each cell runs commands of the kit;
# run them from top to bottom. Run a cell again at any time: what is done stays done.
#
# Before: **Runtime → Change runtime type → T4 GPU** (or better). On the laptop,
# `make data RAW=my_texts CONFIRM=1` makes the rows that are asked for below. Raw texts stay there.

# %%
# Parameters. Outside Colab the variables NOTEBOOK_KIT_URL, NOTEBOOK_MODEL … replace them.
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path


def parameter(name: str, default: str) -> str:
    return os.environ.get(f"NOTEBOOK_{name}", default)


# Where the kit comes from: a git URL, else a zip (git archive --format=zip); empty asks for one.
KIT_URL = parameter("KIT_URL", "")
KIT_ZIP = parameter("KIT_ZIP", "")
KIT_DIR = parameter("KIT_DIR", "/content/tandem")
# A folder with train_sft.jsonl, val_sft.jsonl and manifest.json; empty asks for the three files.
DATA_DIR = parameter("DATA_DIR", "")
# A Hugging Face name, which is downloaded, or a folder that is there. For a gated model, accept
# its licence, and keep a token as HF_TOKEN in Colab's secrets (the key symbol on the left).
MODEL = parameter("MODEL", "meta-llama/Llama-3.1-8B-Instruct")
# What differs from configs/training_config.yaml: KEY=VALUE, separated by blanks.
SETTINGS = parameter("SETTINGS", "")
# Rows to evaluate on; a T4 takes some seconds a row.
EVAL_ROWS = parameter("EVAL_ROWS", "100")
# The adapter's name.
NAME = parameter("NAME", "mapper-lora")
# 1 goes on without a GPU: a rehearsal with a miniature.
ALLOW_CPU = parameter("ALLOW_CPU", "") == "1"

# %% [markdown]
# ## GPU
#
# A T4 or V100 has no bfloat16: there the training computes in float16. Cards below 20 GB take one
# row at a time and gather 16 of them for a step, which is the same step.


# %%
class Stopped(Exception):
    """Ends a cell, and the cells after it, with one line."""

    def _render_traceback_(self):
        return [f"Stopped: {self}"]


def settings_for(capability: float, memory_gb: float) -> list[str]:
    """What a card needs that differs from configs/training_config.yaml."""
    chosen = []
    if capability < 8.0:
        chosen += ["model.dtype=float16", "quantization.bnb_4bit_compute_dtype=float16"]
        chosen += ["training.bf16=false", "training.fp16=true"]
    if memory_gb < 20:
        chosen += ["training.per_device_train_batch_size=1"]
        chosen += ["training.per_device_eval_batch_size=1"]
        chosen += ["training.gradient_accumulation_steps=16"]
    return chosen


def first_gpu() -> tuple[str, float, float] | None:
    """(name, compute capability, GB of memory), or None without a working NVIDIA driver."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total"]
    if not shutil.which("nvidia-smi"):
        return None
    done = subprocess.run([*query, "--format=csv,noheader,nounits"], capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        return None
    name, capability, memory = done.stdout.splitlines()[0].rsplit(", ", 2)
    return name, float(capability), float(memory) / 1024


gpu = first_gpu()
if gpu is None and not ALLOW_CPU:
    raise Stopped("no GPU here; Runtime > Change runtime type > T4 GPU, then run all cells again")
gpu_settings = settings_for(*gpu[1:]) if gpu else []
print(f"{gpu[0]}, sm {gpu[1]}, {gpu[2]:.0f} GB" if gpu else "no GPU: a rehearsal")
print("\n".join(gpu_settings))

# %% [markdown]
# ## The kit and its packages
#
# The packages go into an environment of their own, `.venv-remote`, from the lock with hashes.
# Colab's own Python stays as it is. The first time takes some minutes.

# %%
try:
    from google.colab import files as colab
except ImportError:  # not in Colab: paths instead of dialogs
    colab = None

KIT = Path(KIT_DIR).resolve()
PYTHON = str(KIT / ".venv-remote" / "bin" / "python")
COLABS_OWN = ("PYTHONPATH", "MPLBACKEND")  # meant for Colab's Python, wrong for the kit's
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in COLABS_OWN}
ENVIRONMENT |= {"TANDEM_ENV": "remote", "PYTHONUNBUFFERED": "1"}


def run(*words: object, result: bool = False, **variables: str):
    """Run a command in the kit's folder and show what it says; `result`: return its JSON object."""
    command = [str(word) for word in words]
    print("$", shlex.join(command).replace(f"{KIT}/", ""), flush=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as object_file:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        if result:
            streams = {"stdout": object_file, "stderr": subprocess.PIPE}
        with subprocess.Popen(
            command, cwd=KIT, env=ENVIRONMENT | variables, text=True, stdin=subprocess.DEVNULL,
            **streams,
        ) as process:  # fmt: skip
            last = ""
            for line in process.stderr if result else process.stdout:
                print(line, end="", flush=True)
                last = line.strip() or last
        if process.returncode:
            raise Stopped(last or f"{command[0]} ended with {process.returncode}")
        object_file.seek(0)
        return json.load(object_file) if result else None


def kit(script: str, *words: object, result: bool = False):
    """Run scripts/`script` in the training environment."""
    return run(PYTHON, f"scripts/{script}", *words, result=result)


def upload(what: str) -> list[Path]:
    """Colab's dialog; the files that were chosen."""
    if colab is None:
        raise Stopped(f"{what}: outside Colab give its path as a parameter")
    print(what)
    return [Path(name).resolve() for name in colab.upload()]


def unzip(archive: Path, folder: Path) -> None:
    """Unpack with the files' modes, which zipfile alone forgets."""
    with zipfile.ZipFile(archive) as zipped:
        for entry in zipped.infolist():
            placed = zipped.extract(entry, folder)
            if entry.external_attr >> 16 and not entry.is_dir():
                os.chmod(placed, entry.external_attr >> 16 & 0o777)


KIT.mkdir(parents=True, exist_ok=True)
if not (KIT / "Makefile").is_file():
    if KIT_URL:
        run("git", "clone", "--depth", "1", "--", KIT_URL, ".")
    else:
        unzip(Path(KIT_ZIP) if KIT_ZIP else upload("tandem.zip, the kit")[0], KIT)
if not (KIT / "setup_remote.sh").is_file():
    raise Stopped(f"no kit in {KIT}; git archive --format=zip --output=tandem.zip HEAD makes one")
allow_cpu = ["--allow-cpu"] if ALLOW_CPU else []
if os.access(PYTHON, os.X_OK):
    print(".venv-remote stands; bash setup_remote.sh --check --here looks at every file of it")
else:
    run("bash", "setup_remote.sh", "--here", "--backend", "venv", *allow_cpu)
kit("check_gpu.py", *allow_cpu)

# %% [markdown]
# ## Data
#
# `train_sft.jsonl`, `val_sft.jsonl` and `manifest.json` from the laptop's `data/processed`.

# %%
ROWS = KIT / "data" / "processed"
ROWS.mkdir(parents=True, exist_ok=True)
chosen = sorted(Path(DATA_DIR).iterdir()) if DATA_DIR else []
if not chosen and not (ROWS / "manifest.json").is_file():
    chosen = upload("train_sft.jsonl, val_sft.jsonl and manifest.json, together")
for path in chosen:
    if path.suffix in (".json", ".jsonl"):
        shutil.copy(path, ROWS / path.name)
if not (ROWS / "manifest.json").is_file():
    raise Stopped("manifest.json is missing; it lies beside train_sft.jsonl on the laptop")
for name, said in json.loads((ROWS / "manifest.json").read_text())["files"].items():
    if "_sft" not in name:  # preference rows are for RLHF
        continue
    if not (ROWS / name).is_file():
        raise Stopped(f"{name} is missing; upload it with manifest.json")
    if hashlib.sha256((ROWS / name).read_bytes()).hexdigest() != said["sha256"]:
        raise Stopped(f"{name} is not the file that manifest.json describes; upload all again")
    print(f"ok    {name}  {said['rows']:,} rows")

# %% [markdown]
# ## Base model
#
# Downloaded once by Hugging Face's own `hf`. Nothing else in this notebook uses the network.

# %%
if Path(MODEL).is_dir():
    base = Path(MODEL).resolve()
else:
    base = KIT / "models" / MODEL.rpartition("/")[2]
    token = {}
    if colab is not None:
        from google.colab import userdata

        try:
            token = {"HF_TOKEN": userdata.get("HF_TOKEN")}
        except Exception:  # no such secret, or not shared: an open model needs none
            print("no secret HF_TOKEN: enough for models that are not gated")
    hf = KIT / ".venv-remote" / "bin" / "hf"
    leave_out = ["--exclude", "original/*", "--exclude", "consolidated*"]
    run(hf, "download", MODEL, "--local-dir", base, *leave_out, **token)
    kit("verify_model.py", base)
print(base)

# %% [markdown]
# ## Plan
#
# Steps, tokens with loss, memory, and what is missing. Nothing is trained yet.

# %%
values = [f"model.model_name_or_path={base}", *gpu_settings, *SETTINGS.split()]
overrides = [word for value in values for word in ("--set", value)]
kit("lora_trainer.py", "--dry-run", *overrides)

# %% [markdown]
# ## Train
#
# Stopped, or disconnected while the machine lives? Run this cell again: it goes on from the last
# checkpoint. A run that is done is not done again.

# %%
overrides += ["--set", "safety.dry_run=false"]
manager = ("training_manager.py", "--confirm", "--json", *overrides)
trained = kit(*manager, "--stage", "lora", result=True)
RUN = trained["run"]
print(f"run {RUN}")

# %% [markdown]
# ## Evaluate
#
# Base and adapter side by side on the validation rows.

# %%
rows = ["--set", f"eval:data.max_samples={EVAL_ROWS}"] if EVAL_ROWS else []
measured = kit(*manager, "--stage", "eval", *rows, result=True)
for metric, after in measured["after"].items():
    before = measured["before"].get(metric)
    print(f"{metric:<14}{before['value'] if before else float('nan'):>8.3f}{after['value']:>9.3f}")

# %% [markdown]
# ## Register, verify, pack
#
# The run becomes a version, with a card that holds the hash of every file.

# %%
registered = kit("checkpoint_manager.py", "register", RUN, "--name", NAME, "--json", result=True)
REFERENCE = registered["reference"]
kit("checkpoint_manager.py", "verify", REFERENCE)
PACKED = KIT / f"{REFERENCE.replace('@', '-')}.zip"
kit("checkpoint_manager.py", "pack", REFERENCE, "--output", PACKED)

# %% [markdown]
# ## Download
#
# Save the file before you leave: Colab's disk goes with the machine.

# %%
if colab is not None:
    colab.download(str(PACKED))
print(f"{PACKED}\nOn the laptop:")
print(f'  make adapters ARGS="unpack {PACKED.name}"')
print(f'  make adapters ARGS="verify {REFERENCE}"')
