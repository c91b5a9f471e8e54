"""validate judges programs, variables, the base model and the host's GPU."""

import os
import re

import pytest

from support.small_checkout import stand_in

pytestmark = pytest.mark.slow  # a command in a copy of the kit, each time


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
