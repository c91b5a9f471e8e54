"""The stand-in nvidia-smi replays what the real one prints; a driver cannot be had here."""

import os

import pytest

from checks import gpu, gpu_cards, gpu_facts, gpu_variables
from checks.probe import ProgramAnswer
from support.gpu_answers import CARD_3090, CARD_H100, MESSAGES


def test_a_24_gb_card_is_good_and_named(smi, look):
    smi()
    code, checks, cards = look()
    assert code == 0
    assert checks["gpu 0"]["found"] == "NVIDIA GeForce RTX 3090, 24.0 GB, 24 GB class"
    assert checks["gpu 0 bf16"]["status"] == "ok"
    assert checks["driver"]["found"].startswith("550.54.15, CUDA up to 12.4; torch 2.10.0")
    assert cards[0]["class"] == "24 GB class" and cards[0]["bf16"] is True


def test_the_table_has_every_exit_code_of_nvidia_smi():
    assert {row.code for row in gpu_facts.SMI_FAILURES} == set(MESSAGES)


@pytest.mark.parametrize("code", MESSAGES)
def test_each_failure_of_nvidia_smi_is_explained_with_its_own_remedy(code, smi, look):
    smi.write(f"#!/bin/sh\ncat <<'END'\n{MESSAGES[code]}\nEND\nexit {code}\n")
    row = next(row for row in gpu_facts.SMI_FAILURES if row.code == code)
    exit_code, checks, cards = look()
    assert exit_code == 1 and cards == []
    assert checks["nvidia-smi"] == {
        "name": "nvidia-smi",
        "status": "fail",
        "found": f"{row.found} (exit code {code})",
        "fix": row.fix,
    }


@pytest.mark.parametrize("code", MESSAGES)
def test_the_message_alone_is_recognised_where_the_exit_code_says_nothing(code):
    assert gpu.known_failure(ProgramAnswer(255, MESSAGES[code])).code == code
    assert gpu.known_failure(ProgramAnswer(77, MESSAGES[code])).code == code


@pytest.mark.parametrize("code", [12, 9, 18, 6])
def test_the_exit_code_decides_whatever_the_message_says(code):
    assert gpu.known_failure(ProgramAnswer(code, "")).code == code
    assert gpu.known_failure(ProgramAnswer(code, "Unknown Error")).code == code


def test_an_unknown_failure_shows_what_nvidia_smi_said(smi, look):
    smi.write("#!/bin/sh\necho 'the moon is full'\nexit 77\n")
    code, checks, _ = look()
    assert code == 1
    assert checks["nvidia-smi"]["found"] == "nvidia-smi ended with 77: the moon is full"


def test_no_devices_with_exit_code_0_is_no_gpu(smi, look):
    smi.write("#!/bin/sh\necho 'No devices were found'\n")
    code, checks, _ = look()
    assert code == 1
    assert checks["nvidia-smi"]["found"] == "the driver runs and finds no GPU"


def test_no_nvidia_smi_fails_and_allow_cpu_skips_it(look, tmp_path):
    alone = {"PATH": str(tmp_path)}
    code, checks, _ = look(env=alone)
    assert code == 1 and "--allow-cpu" in checks["gpu"]["fix"]
    code, checks, _ = look("--allow-cpu", env=alone)
    assert code == 0 and checks["gpu"]["status"] == "skip"


def test_a_driver_too_old_for_the_pinned_torch_fails(smi, look):
    smi(cards="NVIDIA A100-SXM4-80GB, 81920, 470.199.02", cuda="11.4")
    code, checks, _ = look()
    assert code == 1
    assert "too old, torch 2.10.0 (CUDA 12) needs 525.60.13" in checks["driver"]["found"]


def test_the_oldest_driver_that_works_warns_about_its_cuda(smi, look):
    smi(cards="NVIDIA A100-SXM4-80GB, 81920, 525.60.13", cuda="12.0")
    code, checks, _ = look()
    assert code == 0 and checks["driver"]["status"] == "warn"


@pytest.mark.parametrize(
    ("torch", "driver"),
    [("2.10.0", "525.60.13"), ("2.11.0", "580.65.06"), ("2.6.0+cu124", "525.60.13")],
)
def test_the_driver_that_is_needed_follows_the_lock(torch, driver, tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"tqdm==4.1 \\\n    --hash=x\ntorch=={torch} \\\n    --hash=x\n")
    assert gpu.torch_needs(lock)[2] == driver


@pytest.mark.parametrize(
    ("mib", "name"),
    [
        (8192, "below 10 GB"),
        (16384, "below the 24 GB class"),
        (23028, "24 GB class"),  # A10
        (24576, "24 GB class"),
        (49140, "between the 24 GB and 80 GB classes"),
        (81559, "80 GB class"),  # H100
        (143771, "above the 80 GB class"),
    ],
)
def test_memory_classes(mib, name):
    assert gpu_cards.Gpu(0, "x", mib, "550.1").memory_class == name


def test_what_fits_on_a_card_is_left_to_the_plan(smi, look):
    smi(cards="Tesla T4, 15360, 550.54.15", compute_cap="7.5")
    code, checks, _ = look()
    assert code == 0 and checks["gpu 0"]["status"] == "ok"
    assert "float16" in checks["gpu 0 bf16"]["fix"]
    smi(cards="RTX 3050, 8192, 550.54.15", compute_cap="8.6")
    _, checks, _ = look()
    assert checks["gpu 0"]["status"] == "warn" and "--estimate" in checks["gpu 0"]["fix"]


def test_several_cards_are_judged_one_by_one(smi, look):
    smi(cards=f"{CARD_3090}\n{CARD_H100}", compute_cap="8.6\n9.0", used="12000\n3", mig="[N/A]\n0")
    code, checks, cards = look("--min-memory", 80)
    assert code == 0
    assert [c["class"] for c in cards] == ["24 GB class", "80 GB class"]
    assert checks["gpu 0 use"]["status"] == "warn"
    assert "gpu 1 use" not in checks


def test_min_memory_fails_where_no_card_has_it(smi, look):
    smi()
    code, checks, _ = look("--min-memory", 80)
    assert code == 1 and checks["gpu memory"]["status"] == "fail"
    assert look("--min-memory", 24)[0] == 0


@pytest.mark.parametrize("unknown", ["[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", ""])
def test_values_that_are_not_known_are_said_to_be_unknown(unknown, smi, look):
    smi(cards=f"GRID A100, {unknown}, 550.54.15", compute_cap=unknown)
    code, checks, cards = look()
    assert code == 0
    assert checks["gpu 0"]["status"] == "warn" and "memory unknown" in checks["gpu 0"]["found"]
    assert cards[0]["compute_cap"] is None and checks["gpu 0 bf16"]["status"] == "skip"


def test_a_name_with_a_comma_is_one_name():
    assert gpu_cards.parse_cards("NVIDIA X, Special, 24576, 550.1")[0].name == "NVIDIA X, Special"


@pytest.mark.parametrize(
    "garbage", ["", "\x00\xff", "<html>Login</html>", "a, b", "x, y, z\n" * 99]
)
def test_garbage_is_reported_as_such(garbage, smi, look):
    smi.write(f"#!/bin/sh\ncat <<'END'\n{garbage}\nEND\n")
    code, checks, cards = look()
    assert code == 1 and cards == []
    assert "answered with something else than cards" in checks["nvidia-smi"]["found"]


def test_a_program_that_does_not_start_is_reported(smi, look):
    smi.write("\x7fELF no program")
    code, checks, _ = look()
    assert code == 1 and "does not start" in checks["nvidia-smi"]["found"]


@pytest.mark.slow
def test_an_nvidia_smi_that_hangs_is_ended(smi, look, tmp_path):
    pid = tmp_path / "pid"
    smi.write(f"#!/bin/sh\necho $$ > {pid}.$$\nexec sleep 600\n")
    code, checks, _ = look("--timeout", 1)
    assert code == 1
    assert "gave no answer in 1 s" in checks["nvidia-smi"]["found"]
    for file in tmp_path.glob("pid.*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


@pytest.mark.parametrize("mig", ["Disabled", "[N/A]"])
def test_a_card_without_mig_has_all_its_memory(mig, smi, look):
    smi(cards=CARD_H100, compute_cap="9.0", mig=mig)
    assert look()[2][0]["slices_mib"] is None


def test_a_mig_slice_is_judged_and_not_its_parent(smi, look):
    listing = (
        "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\n"
        "  MIG 3g.40gb     Device  0: (UUID: MIG-1)\n"
        "  MIG 1g.10gb     Device  1: (UUID: MIG-2)"
    )
    smi(cards=CARD_H100, compute_cap="9.0", mig="Enabled", listing=listing)
    code, checks, cards = look("--min-memory", 80)
    assert code == 1
    assert cards[0]["slices_mib"] == [40960, 10240]
    assert "2 MIG devices, the smallest 10.0 GB" in checks["gpu 0"]["found"]


def test_mig_without_a_slice_fails(smi, look):
    smi(cards=CARD_H100, compute_cap="9.0", mig="Enabled", listing="GPU 0: NVIDIA H100 (UUID: x)")
    code, checks, _ = look()
    assert code == 1 and "no MIG device" in checks["gpu 0"]["found"]


@pytest.mark.parametrize("cap", ["5.2", "13.0"])
def test_cards_outside_the_wheels_range_fail(cap, smi, look):
    smi(compute_cap=cap)
    code, checks, _ = look()
    assert code == 1 and "torch's wheel is for sm_70 to sm_120" in checks["gpu 0 bf16"]["found"]


@pytest.mark.parametrize("cap", ["8.0", "12.0"])
def test_cards_at_the_ends_of_the_range_are_good(cap, smi, look):
    smi(compute_cap=cap)
    assert look()[0] == 0


@pytest.mark.parametrize("name", ["NVIDIA GB10", "Orin (nvgpu)", "NVIDIA Thor"])
def test_a_gpu_that_shares_the_hosts_memory_has_it(name, smi, look):
    smi(cards=f"{name}, [N/A], 580.126.09", compute_cap="12.1", used="[N/A]", cuda="13.0")
    code, checks, cards = look("--min-memory", 0.1)
    assert code == 0 and "shares with the host" in checks["gpu 0"]["found"]
    assert cards[0]["memory_mib"] > 100


def test_unknown_memory_is_not_counted_as_none(smi, look):
    smi(cards="GRID A100, [N/A], 550.54.15", compute_cap="8.0")
    code, checks, _ = look("--min-memory", 24)
    assert code == 0
    assert checks["gpu memory"]["found"] == "not known, 24 GB are asked for"


@pytest.mark.parametrize("field", ["memory", "driver", "compute"])
def test_a_card_that_must_be_reset_fails(field, smi, look):
    lost = "[GPU requires reset]"
    line = {"memory": f"A100, {lost}, 550.1", "driver": f"A100, {lost}, {lost}"}
    smi(cards=line.get(field, "A100, 40960, 550.1"), compute_cap=lost)
    code, checks, _ = look()
    assert code == 1 and checks["gpu 0"]["found"] == "A100: GPU requires reset"
    assert "--gpu-reset -i 0" in checks["gpu 0"]["fix"]


@pytest.mark.parametrize(
    ("arch", "system", "status"),
    [("aarch64", "linux", "fail"), ("x86_64", "linux", None), ("arm64", "darwin", None)],
)
def test_an_arm64_host_is_told_that_the_pinned_torch_uses_no_gpu(arch, system, status, monkeypatch):
    monkeypatch.setattr(gpu.machine, "torch_cuda", lambda env: "")
    checks = gpu.check_wheel(arch, system, "2.10.0")
    assert [c.status for c in checks] == ([status] if status else [])
    monkeypatch.setattr(gpu.machine, "torch_cuda", lambda env: "12.8")
    assert gpu.check_wheel(arch, system, "2.10.0") == []


@pytest.mark.parametrize(
    ("folder", "library", "shadows"),
    [
        ("lib64", "libcublas.so.11", True),
        ("lib64", "libcudart.so.11.0", True),
        ("lib64", "libcudnn_ops.so.9", True),
        ("lib64", "libm.so.6", False),
        ("nvidia/lib64", "libcuda.so.1", False),  # where a cluster mounts the driver
        ("cuda/compat", "libcuda.so.1", True),
        ("cuda/stubs", "libcuda.so", True),
    ],
)
def test_library_path_shadows_are_found(folder, library, shadows, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / library).touch()
    (check,) = gpu_variables.library_path(f"/nowhere:{tmp_path / folder}")
    assert check.status == ("warn" if shadows else "ok")
    assert (library in check.found) is shadows


@pytest.mark.parametrize("code", [row.code for row in gpu_facts.CUDA_FAILURES if row.code])
def test_each_cuda_error_has_its_remedy(code):
    check = gpu.cuda_check(code)
    row = next(row for row in gpu_facts.CUDA_FAILURES if row.code == code)
    assert (check.status, check.found, check.fix) == ("fail", row.found, row.fix)


def test_the_errors_of_the_field_are_in_the_table():
    assert {802, 803, 804} <= {row.code for row in gpu_facts.CUDA_FAILURES}


def test_the_place_of_nvidia_smi_under_wsl_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    seen = []
    monkeypatch.setattr(gpu.shutil, "which", lambda name: seen.append(name))
    gpu.find_smi()
    assert seen == ["nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi"]


def test_as_a_command_it_reports_on_stdout_and_exits_1_without_a_gpu(command, tmp_path):
    result = command("check_gpu.py", env={"PATH": str(tmp_path)})
    assert result.returncode == 1 and result.stderr == ""
    assert result.stdout.startswith("FAIL  gpu ")
