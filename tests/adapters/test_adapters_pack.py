"""pack and unpack: the same bytes every time, and nothing from a hostile zip."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import zipfile

import pytest

from adapters import pack
from kit import console
from support import adapter_runs


@pytest.fixture
def archive(manage, tmp_path):
    """A zip of mapper-lora@v1.0.0; the version itself is gone, as on another machine."""
    adapter_runs.run(tmp_path, report=adapter_runs.report(0.6))
    manage("register", "r1", "--name", "mapper-lora")
    manage("pack", "mapper-lora@v1.0.0", "--output", tmp_path / "m.zip")
    shutil.move(tmp_path / "adapters" / "mapper-lora", tmp_path / "original")
    return tmp_path / "m.zip"


def entries(archive) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as z:
        return {name: z.read(name) for name in z.namelist()}


def write(archive, contents: dict, **attributes) -> None:
    """A zip of {name: bytes}; `attributes` are set on every ZipInfo."""
    with zipfile.ZipFile(archive, "w") as z:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            z.writestr(info, data)


def refused(manage, archive, tmp_path, fails: int = 1) -> str:
    """The one line that unpack answers; asserts that it left nothing behind."""
    done = manage("unpack", archive, fails=fails)
    leftovers = [p for p in (tmp_path / "adapters").rglob("*") if "runs" not in p.parts]
    assert leftovers == []
    return done.stderr


def test_the_same_version_packs_to_the_same_bytes_from_any_copy(manage, archive, tmp_path):
    first = archive.read_bytes()
    shutil.copytree(tmp_path / "original", tmp_path / "adapters" / "mapper-lora")
    for file in (tmp_path / "adapters" / "mapper-lora" / "v1.0.0").iterdir():
        os.chmod(file, 0o600)
        os.utime(file, (1, 1))
    manage("pack", "mapper-lora@v1.0.0", "--output", archive)
    assert archive.read_bytes() == first


def test_unpack_gives_the_version_back_and_a_second_time_changes_nothing(manage, archive, tmp_path):
    assert manage("unpack", archive).stdout.strip() == "mapper-lora@v1.0.0"
    folder = tmp_path / "adapters" / "mapper-lora" / "v1.0.0"
    for file in (tmp_path / "original" / "v1.0.0").iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    manage("verify", "mapper-lora@v1.0.0")
    again = json.loads(manage("unpack", archive, "--json").stdout)
    assert again == {"ok": True, "reference": "mapper-lora@v1.0.0", "new": False}


def test_what_a_killed_unpack_left_goes_once_it_is_old(manage, archive, tmp_path):
    old, new = (tmp_path / "adapters" / f".unpack.{name}.part" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (1, 1))
    manage("unpack", archive)
    assert new.exists() and not old.exists()


def test_a_tampered_version_is_not_packed(manage, archive, tmp_path):
    shutil.copytree(tmp_path / "original", tmp_path / "adapters" / "mapper-lora")
    file = tmp_path / "adapters" / "mapper-lora" / "v1.0.0" / "tokenizer_config.json"
    adapter_runs.rewrite(file, "[]")
    done = manage("pack", "mapper-lora@v1.0.0", "--output", tmp_path / "n.zip", fails=1)
    assert "tokenizer_config.json: its SHA-256" in done.stderr
    assert not (tmp_path / "n.zip").exists()


def test_a_version_that_is_here_with_other_contents_stays(manage, archive, tmp_path):
    adapter_runs.run(tmp_path, "r2", adapter_runs.tensors(seed=5))
    manage("register", "r2", "--name", "mapper-lora")
    before = (tmp_path / "adapters/mapper-lora/v1.0.0/card.json").read_bytes()
    done = manage("unpack", archive, fails=1)
    assert "mapper-lora@v1.0.0 is here already, with other contents" in done.stderr
    assert (tmp_path / "adapters/mapper-lora/v1.0.0/card.json").read_bytes() == before


@pytest.mark.parametrize("name", [
    "../../evil", "mapper-lora/v1.0.0/../../../evil", "/etc/evil", "mapper-lora/v1.0.0/a\\b",
    "C:/v1.0.0/evil", "mapper-lora/v1.0.0/.hidden", "mapper-lora/v1.0.0/", "evil",
    "mapper-lora/v1.0.0/né",
])  # fmt: skip
def test_zip_slip_is_refused(manage, archive, tmp_path, name):
    write(archive, entries(archive) | {name: b"x"})
    assert "an unsafe path" in refused(manage, archive, tmp_path)
    assert not list(tmp_path.parent.glob("**/evil"))


@pytest.mark.parametrize(("name", "expected"), [
    ("mapper-lora/v1.0.0/extra.txt", "extra.txt: not in the card"),
    ("mapper-lora/v1.0.0/CARD.json", "does not belong there"),
    ("other/v1.0.0/file", "does not belong there"),
])  # fmt: skip
def test_files_that_the_card_does_not_list_are_refused(manage, archive, tmp_path, name, expected):
    write(archive, entries(archive) | {name: b"x"})
    assert expected in refused(manage, archive, tmp_path)


def test_links_and_devices_are_refused(manage, archive, tmp_path):
    write(archive, entries(archive), external_attr=(stat.S_IFLNK | 0o777) << 16)
    assert "is a link, a device" in refused(manage, archive, tmp_path)


def test_a_missing_file_is_named(manage, archive, tmp_path):
    contents = entries(archive)
    del contents["mapper-lora/v1.0.0/adapter_model.safetensors"]
    write(archive, contents)
    assert "adapter_model.safetensors: missing" in refused(manage, archive, tmp_path)


def test_a_changed_file_is_named_though_its_size_and_checksum_fit_the_zip(
    manage, archive, tmp_path
):
    contents = entries(archive)
    name = "mapper-lora/v1.0.0/adapter_model.safetensors"
    contents[name] = contents[name][:-1] + b"\x00"
    write(archive, contents)
    assert "adapter_model.safetensors: its SHA-256 is not that of the card" in refused(
        manage, archive, tmp_path)  # fmt: skip


def test_a_card_that_hashes_fit_but_weights_contradict_is_refused(manage, archive, tmp_path):
    """Whoever can write files can write their hashes: the contents are checked too."""
    contents = entries(archive)
    card = json.loads(contents["mapper-lora/v1.0.0/card.json"])
    card["adapter"]["r"] = card["adapter"]["max_rank"] = 64
    contents["mapper-lora/v1.0.0/card.json"] = json.dumps(card).encode()
    write(archive, contents)
    assert "adapter_config.json: r is 4, the card says 64" in refused(manage, archive, tmp_path)


@pytest.mark.parametrize("change", [
    {"format": 2}, {"files": []}, {"files": {"x": {"sha256": 1, "bytes": 2}}}, {"base": None},
    {"adapter": {}}, {"evaluation": {"metrics": 3}}, {"name": "other"}, {"version": "v2.0.0"},
])  # fmt: skip
def test_a_damaged_card_is_one_line(manage, archive, tmp_path, change):
    contents = entries(archive)
    card = json.loads(contents["mapper-lora/v1.0.0/card.json"]) | change
    contents["mapper-lora/v1.0.0/card.json"] = json.dumps(card).encode()
    write(archive, contents)
    assert "m.zip: " in refused(manage, archive, tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(manage, archive, tmp_path):
    contents = entries(archive)
    name = "mapper-lora/v1.0.0/tokenizer_config.json"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        for entry, data in (contents | {name: bytes(64 << 20)}).items():
            z.writestr(entry, data)
    assert "unpacks to a bomb" in refused(manage, archive, tmp_path)


def test_an_entry_that_lies_about_its_size_is_not_written_further_than_the_card_says(
    manage, archive, tmp_path
):
    contents = entries(archive)
    card = json.loads(contents["mapper-lora/v1.0.0/card.json"])
    card["files"]["tokenizer_config.json"]["bytes"] = 1
    contents["mapper-lora/v1.0.0/card.json"] = json.dumps(card).encode()
    write(archive, contents)
    assert "2 bytes, the card says 1" in refused(manage, archive, tmp_path)


def test_no_zip_and_no_file_are_answered(manage, archive, tmp_path):
    archive.write_bytes(b"not a zip")
    assert "a damaged archive" in refused(manage, archive, tmp_path)
    archive.write_bytes(b"")
    assert "a damaged archive" in refused(manage, archive, tmp_path)
    assert "no archive at" in refused(manage, tmp_path / "none.zip", tmp_path, fails=2)


def test_a_full_disk_is_said_before_unpacking(manage, archive, tmp_path, monkeypatch):
    monkeypatch.setattr("adapters.version_store.free_space", lambda folder: 100)
    assert "to unpack, 100 B free" in refused(manage, archive, tmp_path)


def test_random_damage_is_refused_in_one_line_or_changes_nothing(archive, tmp_path):
    """300 zips with flipped or missing bytes: a Problem, or exactly the version."""
    raw, dice = archive.read_bytes(), random.Random(7)
    damaged, good = tmp_path / "damaged.zip", tmp_path / "original" / "v1.0.0"
    for i in range(300):
        data = bytearray(raw)
        if i % 4 == 0:
            del data[dice.randrange(len(data)) :]
        for _ in range(0 if i % 4 == 0 else dice.randint(1, 3)):
            start = len(data) - 1200 if i % 2 else 0
            data[dice.randrange(start, len(data))] = dice.randrange(256)
        damaged.write_bytes(data)
        root = tmp_path / "unpacked"
        try:
            version, _ = pack.unpack(root, damaged)
        except console.Problem:
            assert not root.exists() or not any(root.iterdir())
        else:
            for file in good.iterdir():
                assert (version.folder / file.name).read_bytes() == file.read_bytes()
            shutil.rmtree(root)
