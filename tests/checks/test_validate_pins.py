"""validate compares the installed packages with the locks."""

import re
import shutil
from itertools import product

import pytest

from setup import lock_file
from support.checkout import ROOT
from support.small_checkout import FACTS

pytestmark = pytest.mark.slow  # a command in a copy of the kit, each time


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
