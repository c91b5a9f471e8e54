"""Each test breaks one thing in a small checkout of its own; one check must say so."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from checks import machine
from support.checkout import ROOT
from support.small_checkout import FACTS


def test_a_sound_checkout_passes(validate, kit):
    kit.with_packages()
    code, checks = validate()
    wrong = {n: c for n, c in checks.items() if c["status"] == "fail"}
    assert code == 0 and not wrong
    good = {"python", ".venv-local", "pins", "shared pins", "folders", "secrets", "configs"}
    assert good <= {n for n, c in checks.items() if c["status"] == "ok"}


@pytest.mark.slow
def test_every_warning_and_failure_has_a_remedy(validate, kit):
    shutil.rmtree(kit.root / "models")
    _, checks = validate("remote", HF_HUB_ENABLE_HF_TRANSFER=1, PYTHONPATH="/nowhere")
    wrong = [c for c in checks.values() if c["status"] in ("warn", "fail")]
    assert len(wrong) >= 3 and all(c["fix"] for c in wrong)
    _, checks = validate("local", TANDEM_FORGOTTEN=" PYTHONHOME")
    assert checks["PYTHONHOME"]["status"] == "warn"


@pytest.mark.parametrize(
    ("breaking", "status", "expected"),
    [
        (lambda link: link.unlink(), "fail", "not set up"),
        (lambda link: shutil.rmtree(link.resolve()), "fail", "a link to nowhere"),
        (lambda link: (link / "bin" / "python").unlink(), "fail", "has no interpreter"),
        (lambda link: (link / ".tandem" / "stamp").unlink(), "warn", "no stamp"),
        (lambda link: (link / ".tandem" / "suspect").touch(), "fail", "damaged files"),
        (lambda link: (link / ".tandem" / "lock.txt").write_text("x"), "warn", "another lock"),
    ],
)
@pytest.mark.slow
def test_an_environment_that_is_not_finished_is_seen(breaking, status, expected, validate, kit):
    breaking(kit.root / ".venv-local")
    code, checks = validate()
    assert checks[".venv-local"]["status"] == status and expected in checks[".venv-local"]["found"]
    assert code == (status == "fail")


def test_it_runs_on_a_bare_interpreter_before_anything_is_there(validate, kit):
    for env in ("local", "remote"):
        (kit.root / f".venv-{env}").unlink()
    code, checks = validate(python=(os.path.realpath(sys.executable), "-S", "-E"))
    assert code == 1
    assert checks["pins"]["status"] == checks["base model"]["status"] == "skip"
    assert "./setup_local.sh" in checks[".venv-local"]["fix"]


@pytest.mark.parametrize(
    ("facts", "rosetta", "expected"),
    [
        ({"python_full_version": "3.9.18"}, "", "3.10 to 3.13 is needed"),
        ({"python_full_version": "3.14.0"}, "", "3.10 to 3.13 is needed"),
        ({"implementation_name": "pypy"}, "", "3.10 to 3.13 is needed"),
        ({"bits": "32"}, "", "32-bit"),
        ({"platform_machine": "x86_64"}, "1", "translated on Apple silicon"),
    ],
)
def test_an_interpreter_that_will_not_do_fails(facts, rosetta, expected):
    (check,) = machine.check_python(FACTS | facts, rosetta, "./setup_local.sh")
    assert check.status == "fail" and expected in check.found


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_broken_configuration_names_line_and_key(validate, kit):
    kit.with_packages()
    path = kit.root / "configs" / "training_config.yaml"
    path.write_text(path.read_text().replace("  lora_alpha:", "  lora_alfa:"))
    code, checks = validate()
    line = 1 + path.read_text().split("lora_alfa")[0].count("\n")
    text = checks["training_config.yaml"]["found"]
    assert code == 1
    assert f"training_config.yaml:{line}: lora.lora_alfa" in text and "lora_alpha" in text


def test_a_broken_paths_config_is_one_failed_check(validate, kit):
    (kit.root / "configs" / "paths_config.json").write_text('{"folders": {,}')
    code, checks = validate()
    assert code == 1 and checks["paths_config.json"]["status"] == "fail"


@pytest.mark.slow
def test_deep_hashes_imports_and_uses_the_stack(command):
    if not (ROOT / ".venv-local").exists():
        pytest.skip("needs .venv-local (make setup-local)")
    result = command("validate_environment.py", "--env", "local", "--deep", "--json")
    checks = {c["name"]: c for c in json.loads(result.stdout)["checks"]}
    for name in ("files", "imports", "use pandas", "use trafilatura", "use chromadb"):
        assert checks[name]["status"] == "ok", checks.get(name)
