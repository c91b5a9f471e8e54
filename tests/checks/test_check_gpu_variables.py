"""CUDA_VISIBLE_DEVICES decides which cards check_gpu judges."""

import pytest

from checks import gpu
from kit import paths
from support.gpu_answers import CARD_H100


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles", "3"])
def test_a_variable_that_hides_the_gpu_fails(hidden, smi, look):
    smi()
    code, checks, _ = look(env={"CUDA_VISIBLE_DEVICES": hidden})
    assert code == 1
    assert checks["CUDA_VISIBLE_DEVICES"]["fix"] == "unset CUDA_VISIBLE_DEVICES"


TWO_CARDS = (
    "GPU 0: Tesla T4 (UUID: GPU-aaaa1111-2222)\nGPU 1: NVIDIA RTX A6000 (UUID: GPU-aaaa9999-2222)"
)


@pytest.fixture
def two_cards(smi):
    """A T4 and an A6000: CUDA counts the A6000 first, nvidia-smi the T4."""
    cards = "Tesla T4, 15360, 550.90.07\nNVIDIA RTX A6000, 49140, 550.90.07"
    smi(cards=cards, compute_cap="7.5\n8.6", used="3\n3", mig="[N/A]\n[N/A]", listing=TWO_CARDS)


@pytest.mark.parametrize("setting", ["0", "1", "1,0"])
def test_an_index_is_uncertain_where_the_cards_differ(setting, two_cards, look):
    code, checks, _ = look(env={"CUDA_VISIBLE_DEVICES": setting})
    assert code == 0
    assert checks["CUDA_VISIBLE_DEVICES"]["fix"] == "export CUDA_DEVICE_ORDER=PCI_BUS_ID"


@pytest.mark.parametrize("setting", ["1", "GPU-aaaa9", "GPU-aaaa9999-2222"])
def test_only_the_card_that_torch_gets_is_judged(setting, two_cards, look):
    env = {"CUDA_VISIBLE_DEVICES": setting, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    code, checks, _ = look("--min-memory", 40, env=env)
    assert code == 0 and checks["CUDA_VISIBLE_DEVICES"]["status"] == "ok"
    assert checks["gpu 0"]["found"] == "Tesla T4: hidden by CUDA_VISIBLE_DEVICES"
    assert look("--min-memory", 40, env=env | {"CUDA_VISIBLE_DEVICES": "0"})[0] == 1


@pytest.mark.parametrize(
    "setting", ["all", "GPU-deadbeef", "MIG-nothere", "GPU-aaaa", "gpu0", "none,0"]
)
def test_what_names_no_card_hides_every_gpu(setting, two_cards, look):
    code, checks, _ = look(env={"CUDA_VISIBLE_DEVICES": setting})
    assert code == 1
    assert "hides every GPU" in checks["CUDA_VISIBLE_DEVICES"]["found"]


def test_cuda_stops_reading_at_the_first_entry_that_names_nothing(two_cards, look):
    env = {"CUDA_VISIBLE_DEVICES": "0,7,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    code, checks, _ = look(env=env)
    assert code == 0 and "only gpu 0 is used: '7'" in checks["CUDA_VISIBLE_DEVICES"]["found"]
    assert checks["gpu 1"]["status"] == "skip"


def test_a_mig_device_is_chosen_by_its_uuid(smi, look):
    listing = "GPU 0: H100 (UUID: GPU-1)\n  MIG 3g.40gb Device 0: (UUID: MIG-77)"
    smi(cards=CARD_H100, compute_cap="9.0", mig="Enabled", listing=listing)
    assert look(env={"CUDA_VISIBLE_DEVICES": "MIG-77"})[0] == 0
    code, checks, _ = look(env={"CUDA_VISIBLE_DEVICES": "MIG-78"})
    assert code == 1 and "nvidia-smi -L lists" in checks["CUDA_VISIBLE_DEVICES"]["fix"]


@pytest.mark.parametrize(
    ("setting", "gigabytes"),
    [("MIG-aa", 40), ("MIG-bb", 10), ("MIG-aa,MIG-bb", 40), ("0", 10), (None, 10)],
)
def test_the_mig_device_that_a_process_gets_is_judged_and_planned_for(setting, gigabytes, smi):
    """Without a name the smallest is. What other devices of the card use is not this one's."""
    from training import cards

    listing = (
        "GPU 0: H100 (UUID: GPU-1)\n"
        "  MIG 3g.40gb     Device  0: (UUID: MIG-aa77)\n"
        "  MIG 1g.10gb+me  Device  1: (UUID: MIG-bb77)"
    )
    smi(cards=CARD_H100, compute_cap="9.0", mig="Enabled", listing=listing, used="50000")
    with pytest.MonkeyPatch.context() as patch:
        if setting is not None:
            patch.setenv("CUDA_VISIBLE_DEVICES", setting)
        (card,), _ = cards.look()
        checks = {check.name: check for check in gpu.look(paths.ROOT / "none")[0]}
    assert card.name == f"NVIDIA H100 80GB HBM3 MIG {gigabytes} GB"
    assert (card.gigabytes, card.used) == (gigabytes, 0)
    assert f"{gigabytes}.0 GB" in checks["gpu 0"].found and "gpu 0 use" not in checks


def test_a_plan_warns_of_a_driver_that_lists_no_card(smi):
    from training import cards

    smi.write("#!/bin/sh\necho 'Unable to determine the device handle: GPU is lost'\nexit 15\n")
    here, (check,) = cards.look()
    assert here == [] and check.status == "warn" and "reboot" in check.fix
    smi(cards=CARD_H100, compute_cap="9.0")
    (card,), wrong = cards.look()
    assert card.name == "NVIDIA H100 80GB HBM3" and wrong == []


def test_a_uuid_without_a_listing_cannot_be_compared(smi, look):
    smi()
    code, checks, _ = look(env={"CUDA_VISIBLE_DEVICES": "GPU-1"})
    assert code == 0 and checks["CUDA_VISIBLE_DEVICES"]["status"] == "warn"


def test_a_variable_that_chooses_a_card_is_good(smi, look):
    smi()
    assert look(env={"CUDA_VISIBLE_DEVICES": "0"})[0] == 0


def test_a_stray_bitsandbytes_variable_warns(smi, look):
    smi()
    _, checks, _ = look(env={"BNB_CUDA_VERSION": "118"})
    assert checks["BNB_CUDA_VERSION"]["fix"] == "unset BNB_CUDA_VERSION"


def test_a_card_that_is_named_twice_hides_every_gpu(two_cards, look):
    """As CUDA and torch read the list."""
    code, checks, _ = look(env={"CUDA_VISIBLE_DEVICES": "1,1"})
    assert code == 1
    assert "hides every GPU: '1' is named twice" in checks["CUDA_VISIBLE_DEVICES"]["found"]
