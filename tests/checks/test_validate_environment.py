"""Each test breaks one thing in a small checkout of its own; one check must say so."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from checks import leaks, machine, probe
from setup import installed_packages, lock_file
from support.checkout import ROOT

TOKEN = "hf_" + "a1B2" * 9
FACTS = lock_file.interpreter_facts()


def short_lock(text: str) -> str:
    """The lines of a few packages, so that an environment is made in a moment."""
    few = r"^(?:numpy|pandas|torch|bitsandbytes|scipy|tqdm)==.*\n(?: .*\n)*"
    return "".join(re.findall(few, text, re.M))


class Checkout:
    """A copy of the kit with environments whose packages are metadata, and its own git."""

    def __init__(self, root: Path):
        self.root = root
        needed = ("kit", "config", "setup", "checks", "base_model", "validate_environment.py")
        (root / "scripts").mkdir()
        for path in (ROOT / "scripts" / name for name in needed):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, root / "scripts" / path.name)
        shutil.copytree(ROOT / "configs", root / "configs")
        shutil.copy(ROOT / ".gitignore", root)
        for env in ("local", "remote"):
            lock = f"requirements-{env}.txt"
            (root / lock).write_text(short_lock((ROOT / lock).read_text()))
        for name in ("data/raw", "data/processed", "data/synthetic", "models", "adapters"):
            (root / name).mkdir(parents=True)
        self.git("init", "-q")
        self.git("add", ".gitignore", "configs")
        for env in ("local", "remote"):
            self.make_environment(env)

    def git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.root, check=True)

    def make_environment(self, env: str) -> None:
        folder = self.root / ".envs" / f"{env}-0123456789ab"
        site = folder / "lib" / f"python{FACTS['python_version']}" / "site-packages"
        site.mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        home = os.path.dirname(os.path.realpath(sys.executable))
        (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
        for name, version in lock_file.wanted(self.root / f"requirements-{env}.txt", FACTS).items():
            info = site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").touch()
            (info / "RECORD").touch()
        notes = folder / ".tandem"
        notes.mkdir()
        shutil.copy(self.root / f"requirements-{env}.txt", notes / "lock.txt")
        (notes / "stamp").write_text("x\nvenv\n1\n3.10 /python\n")
        (self.root / f".venv-{env}").symlink_to(f".envs/{folder.name}")

    def with_packages(self) -> None:
        """Let the local environment import what this test's interpreter can: PyYAML, pydantic."""
        (self.site() / "real.pth").write_text("\n".join(sys.path))

    def site(self, env: str = "local") -> Path:
        return installed_packages.site_packages(self.root / f".venv-{env}")

    def info(self, name: str, env: str = "local") -> Path:
        (found,) = self.site(env).glob(f"{name}-*.dist-info")
        return found


@pytest.fixture
def kit(tmp_path, monkeypatch) -> Checkout:
    for name in ("HF_HOME", "UV_CACHE_DIR", "PIP_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "caches" / name))
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "RSYNC"):
        monkeypatch.delenv(name, raising=False)
    for name in (*machine._SPOILERS, *machine._CERTIFICATES, "HF_HUB_ENABLE_HF_TRANSFER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / "kit").mkdir()
    return Checkout(tmp_path / "kit")


@pytest.fixture
def validate(kit):
    """Run validate_environment.py --json in that checkout: (exit code, {check: its values})."""

    def run(env="local", *arguments, python=(sys.executable,), **variables):
        words = [*python, "scripts/validate_environment.py", "--env", env, "--json", *arguments]
        variables = os.environ | {k: str(v) for k, v in variables.items()}
        done = subprocess.run(words, cwd=kit.root, env=variables, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        body = json.loads(done.stdout)
        return done.returncode, {c["name"]: c for c in body["checks"]}

    return run


def test_a_sound_checkout_passes(validate, kit):
    kit.with_packages()
    code, checks = validate()
    wrong = {n: c for n, c in checks.items() if c["status"] == "fail"}
    assert code == 0 and not wrong
    good = {"python", ".venv-local", "pins", "shared pins", "folders", "secrets", "configs"}
    assert good <= {n for n, c in checks.items() if c["status"] == "ok"}


def test_every_warning_and_failure_has_a_remedy(validate, kit):
    shutil.rmtree(kit.root / "models")
    _, checks = validate("remote", HF_HUB_ENABLE_HF_TRANSFER=1, PYTHONPATH="/nowhere")
    wrong = [c for c in checks.values() if c["status"] in ("warn", "fail")]
    assert len(wrong) >= 3 and all(c["fix"] for c in wrong)


# --- pins ---------------------------------------------------------------------------------------


def test_a_package_of_another_version_is_named(validate, kit):
    info = kit.info("numpy")
    info.rename(info.with_name("numpy-1.26.4.dist-info"))
    code, checks = validate()
    assert code == 1
    assert "numpy: 1.26.4, 2.2.6 wanted" in checks["pins"]["found"]
    assert checks["pins"]["fix"] == "./setup_local.sh"


def test_a_missing_package_is_named(validate, kit):
    shutil.rmtree(kit.info("torch", "remote"))
    code, checks = validate("remote", "--allow-cpu")
    assert code == 1 and "torch: not there" in checks["pins"]["found"]


def test_a_package_whose_record_is_gone_is_half_installed(validate, kit):
    (kit.info("pandas") / "RECORD").unlink()
    code, checks = validate()
    assert code == 1 and "pandas: half installed" in checks["pins"]["found"]


def test_a_package_of_your_own_beside_the_pins_is_mentioned(validate, kit):
    extra = kit.site() / "flash_attn-2.8.dist-info"
    extra.mkdir()
    for name in ("METADATA", "RECORD"):
        (extra / name).touch()
    code, checks = validate()
    assert code == 0 and "beside them flash-attn" in checks["pins"]["found"]


def test_two_versions_in_the_two_locks_are_an_error(validate, kit):
    lock = kit.root / "requirements-remote.txt"
    lock.write_text(re.sub(r"^numpy==\S+", "numpy==2.2.5", lock.read_text(), flags=re.M))
    code, checks = validate()
    assert code == 1
    assert "numpy 2.2.6 and 2.2.5" in checks["shared pins"]["found"]


@pytest.mark.parametrize("text", ["", "\xff\xfe", "numpy==1 ; __import__('os') \\\n"])
def test_a_lock_that_is_none_is_an_error(text, validate, kit):
    (kit.root / "requirements-local.txt").write_text(text, encoding="latin-1")
    code, checks = validate()
    assert code == 1 and checks["pins"]["status"] == "fail"


def test_markers_mean_what_packaging_says_for_every_line_of_both_locks():
    marker_of = pytest.importorskip("packaging.markers").Marker
    compared = 0
    for env in ("local", "remote"):
        for _, _, marker in lock_file.read_lock(ROOT / f"requirements-{env}.txt"):
            versions = ("3.10.1", "3.10.13", "3.11.4", "3.11.9", "3.12.0", "3.13.1")
            for version, arch, system in product(
                versions if marker else (), ("x86_64", "arm64"), ("linux", "darwin", "win32")
            ):
                facts = FACTS | {
                    "python_full_version": version,
                    "python_version": version.rpartition(".")[0],
                    "platform_machine": arch,
                    "sys_platform": system,
                }
                assert lock_file.holds(marker, facts) == marker_of(marker).evaluate(facts), marker
                compared += 1
    assert compared > 1000


def test_every_pin_of_the_locks_is_read():
    for env in ("local", "remote"):
        lock = ROOT / f"requirements-{env}.txt"
        assert len(lock_file.read_lock(lock)) == len(
            re.findall(r"^\w[^=\n]*==", lock.read_text(), re.M)
        )


# --- the environment ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaking", "status", "said"),
    [
        (lambda link: link.unlink(), "fail", "not set up"),
        (lambda link: shutil.rmtree(link.resolve()), "fail", "a link to nowhere"),
        (lambda link: (link / "bin" / "python").unlink(), "fail", "has no interpreter"),
        (lambda link: (link / ".tandem" / "stamp").unlink(), "warn", "no stamp"),
        (lambda link: (link / ".tandem" / "suspect").touch(), "fail", "damaged files"),
        (lambda link: (link / ".tandem" / "lock.txt").write_text("x"), "warn", "another lock"),
    ],
)
def test_an_environment_that_is_not_finished_is_seen(breaking, status, said, validate, kit):
    breaking(kit.root / ".venv-local")
    code, checks = validate()
    assert checks[".venv-local"]["status"] == status and said in checks[".venv-local"]["found"]
    assert code == (status == "fail")


def test_it_runs_on_a_bare_interpreter_before_anything_is_there(validate, kit):
    for env in ("local", "remote"):
        (kit.root / f".venv-{env}").unlink()
    code, checks = validate(python=(os.path.realpath(sys.executable), "-S", "-E"))
    assert code == 1
    assert checks["pins"]["status"] == checks["base model"]["status"] == "skip"
    assert "./setup_local.sh" in checks[".venv-local"]["fix"]


@pytest.mark.parametrize(
    ("facts", "rosetta", "said"),
    [
        ({"python_full_version": "3.9.18"}, "", "3.10 to 3.13 is needed"),
        ({"python_full_version": "3.14.0"}, "", "3.10 to 3.13 is needed"),
        ({"implementation_name": "pypy"}, "", "3.10 to 3.13 is needed"),
        ({"bits": "32"}, "", "32-bit"),
        ({"platform_machine": "x86_64"}, "1", "translated on Apple silicon"),
    ],
)
def test_an_interpreter_that_will_not_do_fails(facts, rosetta, said):
    (check,) = machine.check_python(FACTS | facts, rosetta, "./setup_local.sh")
    assert check.status == "fail" and said in check.found


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({"libc": "glibc 2.17"}, "fail"),
        ({"libc": "glibc 2.28"}, "ok"),
        ({"platform_machine": "ppc64le"}, "fail"),
        ({"sys_platform": "darwin", "mac": "13.6"}, "fail"),
    ],
)
def test_systems_without_wheels_are_told_before_pip_finds_old_ones(facts, status):
    base = {"sys_platform": "linux", "platform_machine": "x86_64", "libc": "glibc 2.36"}
    (check,) = machine.check_platform(FACTS | base | facts)
    assert check.status == status


def test_bitsandbytes_without_a_library_for_torchs_cuda_fails(tmp_path):
    site = tmp_path / "lib/python3.10/site-packages"
    (site / "torch").mkdir(parents=True)
    (site / "bitsandbytes").mkdir()
    (site / "torch" / "version.py").write_text("cuda: Optional[str] = '12.8'\n")
    (site / "bitsandbytes" / "libbitsandbytes_cuda118.so").touch()
    (check,) = machine.check_bitsandbytes(tmp_path)
    assert check.status == "fail" and "cuda128" in check.found
    (site / "bitsandbytes" / "libbitsandbytes_cuda128.so").touch()
    assert machine.check_bitsandbytes(tmp_path)[0].status == "ok"


# --- folders and configurations -------------------------------------------------------------------


def test_a_missing_folder_is_made_by_the_command_it_names(validate, kit):
    shutil.rmtree(kit.root / "data" / "processed")
    code, checks = validate()
    assert code == 1 and checks["folders"]["fix"] == "mkdir -p data/processed"
    subprocess.run(checks["folders"]["fix"], shell=True, cwd=kit.root, check=True)
    assert validate()[0] == 0


def test_a_folder_that_links_to_nowhere_is_an_error(validate, kit):
    (kit.root / "models").rmdir()
    (kit.root / "models").symlink_to("/nowhere/models")
    code, checks = validate()
    assert code == 1 and "models links to nowhere" in checks["folders"]["found"]


def test_a_broken_configuration_names_line_and_key(validate, kit):
    kit.with_packages()
    path = kit.root / "configs" / "training_config.yaml"
    path.write_text(path.read_text().replace("  lora_alpha:", "  lora_alfa:"))
    code, checks = validate()
    line = 1 + path.read_text().split("lora_alfa")[0].count("\n")
    found = checks["training_config.yaml"]["found"]
    assert code == 1
    assert f"training_config.yaml:{line}: lora.lora_alfa" in found and "lora_alpha" in found


def test_a_broken_paths_config_is_one_failed_check(validate, kit):
    (kit.root / "configs" / "paths_config.json").write_text('{"folders": {,}')
    code, checks = validate()
    assert code == 1 and checks["paths_config.json"]["status"] == "fail"


# --- secrets --------------------------------------------------------------------------------------


def test_a_secret_that_git_tracks_fails_and_is_not_printed(validate, kit):
    (kit.root / "id_ed25519").write_text(TOKEN)
    kit.git("add", "-f", "id_ed25519")
    code, checks = validate()
    assert code == 1
    assert checks["secrets tracked"]["fix"].startswith("git rm --cached id_ed25519")


def test_a_secret_that_git_would_take_fails(validate, kit):
    (kit.root / ".gitignore").write_text("")
    (kit.root / "token.txt").write_text("nothing")
    code, checks = validate()
    assert code == 1 and "not ignored by git: token.txt" in checks["secrets not ignored"]["found"]


def test_a_token_inside_an_innocent_file_fails(validate, kit):
    (kit.root / "notes.md").write_text(f"my token: {TOKEN}\n")
    code, checks = validate()
    assert code == 1 and checks["secrets in files"]["found"] == "a key or token is in notes.md"


def test_ignored_secrets_are_good_while_others_cannot_read_them(validate, kit):
    secret = kit.root / ".credentials" / "hf"
    secret.parent.mkdir()
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    assert validate()[1]["secrets"]["status"] == "ok"
    secret.chmod(0o644)
    assert validate()[1]["secrets readable"]["fix"] == "chmod 600 .credentials/hf"


def test_outside_a_git_checkout_the_search_is_skipped(validate, kit):
    shutil.rmtree(kit.root / ".git")
    code, checks = validate(GIT_CEILING_DIRECTORIES=kit.root.parent)
    assert code == 0 and checks["secrets"]["status"] == "skip"


def test_a_checkout_of_another_user_is_not_called_clean(validate, kit):
    dubious = "fatal: detected dubious ownership in repository at '/x'"
    nothing = probe.ProgramAnswer(128, "")
    (check,) = leaks.check(probe.ProgramAnswer(128, dubious), nothing, nothing, kit.root)
    assert check.status == "warn" and "another user" in check.found
    assert check.fix == f"git config --global --add safe.directory {kit.root}"


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"])
def test_variables_of_git_do_not_lead_it_elsewhere(name, validate, kit):
    (kit.root / "notes.md").write_text(f"my token: {TOKEN}\n")
    code, checks = validate(**{name: "/nonexistent"})
    assert code == 1 and "notes.md" in checks["secrets in files"]["found"]


@pytest.mark.parametrize("setting", ["submodule.recurse=true", "color.ui=always"])
def test_a_users_git_configuration_does_not_blind_the_search(setting, validate, kit, tmp_path):
    (kit.root / "notes.md").write_text(f"my token: {TOKEN}\n")
    subprocess.run(["git", "config", "-f", tmp_path / "gitconfig", *setting.split("=")], check=True)
    code, checks = validate(GIT_CONFIG_GLOBAL=tmp_path / "gitconfig")
    assert code == 1 and checks["secrets in files"]["found"].endswith("is in notes.md")


def test_a_search_that_fails_is_said(kit):
    listing, failed = probe.ProgramAnswer(0, ""), probe.ProgramAnswer(128, "fatal: bad index")
    (check,) = leaks.check(listing, listing, failed, kit.root)
    assert check.status == "warn" and "fatal: bad index" in check.found


def test_the_kit_itself_holds_no_secret():
    found = subprocess.run(leaks.COMMANDS["git values"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode in (1, 128), found.stdout


# --- programs, variables, the hub -----------------------------------------------------------------


@pytest.fixture
def programs(tmp_path):
    """A folder for PATH with links to what the machine has, without rsync and nvidia-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("git", "ssh", "sh", "tar"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return folder


def stand_in(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_no_rsync_is_a_warning_with_how_to_install_it(validate, programs):
    if any(os.path.exists(p) for p in ("/opt/homebrew/bin/rsync", "/usr/local/bin/rsync")):
        pytest.skip("this machine has Homebrew's rsync, which is found without PATH")
    code, checks = validate(PATH=programs)
    assert checks["rsync"]["status"] == "warn" and "brew install rsync" in checks["rsync"]["fix"]
    assert "tar" in checks["rsync"]["found"]


def test_openrsync_is_good_and_said_to_be_it(validate, programs):
    refuse = '#!/bin/sh\ncase "$1" in --info*) exit 1 ;; *) exit 0 ;; esac\n'
    stand_in(programs / "rsync", refuse)
    code, checks = validate(RSYNC=programs / "rsync")
    assert code == 0
    assert checks["rsync"]["status"] == "ok" and "openrsync" in checks["rsync"]["found"]


def test_an_rsync_without_the_options_of_a_transfer_fails(validate, programs):
    stand_in(programs / "rsync", "#!/bin/sh\nexit 1\n")
    code, checks = validate(RSYNC=programs / "rsync")
    assert code == 1 and "lacks options" in checks["rsync"]["found"]


@pytest.mark.slow
def test_a_program_that_hangs_does_not_hold_the_report_up(validate, programs, kit):
    text = (kit.root / "scripts" / "validate_environment.py").read_text()
    short = re.sub(r"^TIMEOUT = .*$", "TIMEOUT = 1.5", text, flags=re.M)
    (kit.root / "scripts" / "validate_environment.py").write_text(short)
    stand_in(programs / "rsync", "#!/bin/sh\nexec sleep 600\n")
    code, checks = validate(RSYNC=programs / "rsync")
    assert code == 1 and checks["rsync"]["status"] == "fail"


def test_a_token_in_a_variable_is_named_and_not_printed(validate):
    _, checks = validate(HF_TOKEN=TOKEN)
    assert checks["HF token"]["found"] == "there (HF_TOKEN)"


def test_a_token_file_that_others_can_read_warns(validate, tmp_path):
    file = tmp_path / "caches" / "HF_HOME" / "token"
    file.parent.mkdir(parents=True)
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert validate()[1]["HF token"]["fix"] == f"chmod 600 {file}"
    file.chmod(0o600)
    assert validate()[1]["HF token"]["status"] == "ok"


def test_the_transfer_variable_without_its_package_warns(validate):
    assert "unset" in validate(HF_HUB_ENABLE_HF_TRANSFER=1)[1]["HF_HUB_ENABLE_HF_TRANSFER"]["fix"]
    assert "HF_HUB_ENABLE_HF_TRANSFER" not in validate(HF_HUB_ENABLE_HF_TRANSFER=0)[1]


def test_a_certificate_file_that_is_not_there_fails(validate):
    code, checks = validate(SSL_CERT_FILE="/nowhere/ca.pem")
    assert code == 1 and "SSL_CERT_FILE" in checks


def test_an_absent_model_warns_with_its_download_command(validate, kit):
    kit.with_packages()
    code, checks = validate()
    assert code == 0
    assert checks["base model"]["fix"].startswith("hf download meta-llama/Llama-3.1-8B-Instruct")
    assert checks["HF token"]["status"] == "warn"


def test_half_a_model_fails_and_names_the_command_that_says_more(validate, kit):
    kit.with_packages()
    folder = kit.root / "models" / "Llama-3.1-8B-Instruct"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    code, checks = validate()
    assert code == 1
    assert checks["base model"]["fix"].startswith("python scripts/verify_model.py")


# --- the host -------------------------------------------------------------------------------------


def test_without_a_gpu_the_host_fails_and_a_rehearsal_goes_on(validate, programs):
    stand_in(programs / "rsync", "#!/bin/sh\nexit 0\n")
    code, checks = validate("remote", PATH=programs)
    assert code == 1 and "--allow-cpu" in checks["gpu"]["fix"]
    code, checks = validate("remote", "--allow-cpu", PATH=programs)
    assert code == 0 and checks["gpu"]["status"] == "skip"


def test_a_host_with_a_gpu_reports_driver_and_card(validate, programs):
    stand_in(programs / "rsync", "#!/bin/sh\nexit 0\n")
    answer = "NVIDIA H100 80GB HBM3, 81559, 550.54.15"
    stand_in(programs / "nvidia-smi", f'#!/bin/sh\ncase "$*" in *name*) echo "{answer}" ;; esac\n')
    code, checks = validate("remote", PATH=programs)
    assert code == 0
    assert checks["driver"]["status"] == "ok" and "80 GB class" in checks["gpu 0"]["found"]


@pytest.mark.slow
def test_deep_hashes_imports_and_uses_the_stack(command):
    if not (ROOT / ".venv-local").exists():
        pytest.skip("needs .venv-local (make setup-local)")
    result = command("validate_environment.py", "--env", "local", "--deep", "--json")
    checks = {c["name"]: c for c in json.loads(result.stdout)["checks"]}
    for name in ("files", "imports", "use pandas", "use trafilatura", "use chromadb"):
        assert checks[name]["status"] == "ok", checks.get(name)
