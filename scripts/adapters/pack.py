"""Pack one version as one zip, the same bytes every time; unpack it, trusting nothing in the zip.

The archive contains <name>/<vX.Y.Z>/card.json and then every file of the card, sorted, with one
fixed date, stored without compression (adapter weights do not compress, and zlibs differ).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from adapters import card as cards
from adapters import card_schema, names, verification, version_store
from adapters.weights import Difference
from kit import console, json_files, paths, publish
from transfer import card_files

DATE = (1980, 1, 1, 0, 0, 0)
RATIO = 200  # unpacked bytes a packed byte may become; more is a bomb
# what zipfile raises for bytes that are not a zip (a bad offset is "invalid argument")
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, ValueError,
           OSError)  # fmt: skip
AGAIN = "pack the version again and copy the file anew"


def pack(version: version_store.Version, output: str | os.PathLike) -> str:
    """Publish the version as a zip at `output`, after verifying it; returns the zip's SHA-256."""
    facts = version.card
    verification.verify(version)
    members = [cards.FILE, *sorted(facts["files"])]
    with publish.file(output, "wb") as f, zipfile.ZipFile(f, "w") as archive:
        for member in members:
            info = zipfile.ZipInfo(f"{version.name}/{version.version}/{member}", DATE)
            info.create_system = 3  # Unix, wherever it runs
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = (version.folder / member).stat().st_size
            with archive.open(info, "w") as to, (version.folder / member).open("rb") as source:
                while block := source.read(1 << 20):
                    to.write(block)
    return publish.sha256(output)


def unpack(root: Path, archive: str | os.PathLike) -> tuple[version_store.Version, bool]:
    """(version, whether it is new) of a zip made by `pack`, verified before it is published.

    Difference or Problem for anything that is not exactly one sound version; then nothing is
    published. If the version exists, the same card is fine and another card is an error.
    """
    path = Path(archive)
    if not path.is_file():
        raise console.Misuse(f"no archive at {path}", "give the file that `pack` wrote")
    try:
        with zipfile.ZipFile(path) as opened:
            name, number, members = _contents(opened, path)
            facts = _card(opened, members.pop(cards.FILE), path)
            _compare(facts, members, f"{name}@{names.text(number)}", path)
            existing = version_store.Version(name, number, root / name / names.text(number))
            if existing.folder.exists():
                return _same(existing, facts), False
            _room(root, facts)
            with version_store.staging(root) as stage:
                return _publish(
                    opened, facts, members, version_store.Version(name, number, stage), existing
                )
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # an error of the disk, not of the archive
        why = str(error).partition("\n")[0].rstrip(".") or "cut short"
        raise Difference(path.name, f"a damaged archive ({why})", AGAIN) from None


def _contents(opened: zipfile.ZipFile, path: Path):
    """(name, number, {file in the version: ZipInfo}); Difference for what `pack` never writes."""
    entries = opened.infolist()
    if len(entries) > card_schema.MOST_FILES + 1:
        raise Difference(
            path.name, f"{len(entries)} entries, more than {card_schema.MOST_FILES}", AGAIN
        )
    owner, members = None, {}
    for entry in entries:
        if danger := _danger(entry):
            raise Difference(path.name, danger, "do not use it")
        parts = entry.filename.split("/")
        owner = owner or parts[:2]
        member = "/".join(parts[2:])
        if parts[:2] != owner or member.casefold() in (m.casefold() for m in members):
            raise Difference(path.name, f"{entry.filename} does not belong there", AGAIN)
        members[member] = entry
    number = names.number(owner[1]) if owner else None
    if number is None or cards.FILE not in members:
        raise Difference(path.name, "no card.json of a version in it", "give a file from `pack`")
    if sum(e.file_size for e in entries) > RATIO * path.stat().st_size + (1 << 20):
        raise Difference(path.name, "its entries overlap: a bomb", "do not use it")
    return names.check_name(owner[0]), number, members


def _danger(entry: zipfile.ZipInfo) -> str:
    """Why an entry must not be unpacked, or ''."""
    parts = entry.filename.split("/")
    unsafe = len(parts) < 3 or any(not names.PART.fullmatch(part) for part in parts)
    if unsafe or entry.orig_filename != entry.filename:
        return f"an unsafe path: {entry.filename!r}"
    is_file = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
    known = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if not is_file or entry.flag_bits & 1 or not known:
        return f"{entry.filename} is a link, a device, encrypted or oddly compressed"
    if entry.file_size > RATIO * max(entry.compress_size, 1) + (1 << 20):
        return f"{entry.filename} unpacks to a bomb"
    return ""


def _card(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> dict[str, Any]:
    if entry.file_size > json_files.MOST_BYTES:
        raise Difference(path.name, "its card.json is too large", "do not use it")
    try:
        facts = json_files.parse(opened.read(entry))
        wrong = card_schema.problem(facts)
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise Difference(path.name, f"its card.json is damaged: {wrong}", AGAIN)
    return facts


def _compare(facts, members, reference: str, path: Path) -> None:
    """The entries are the files of the card, with the sizes that it gives; hashes come later."""
    own = f"{facts['name']}@{facts['version']}"
    if own != reference:
        raise Difference(path.name, f"the card of {own} lies under {reference}", AGAIN)
    listed = card_files.listed_files(facts) or {}

    def size_of(name: str) -> int | None:
        return members[name].file_size if name in members else None

    difference = card_files.first_difference(listed, members, size_of, lambda name: listed[name][0])
    if difference:
        name, what = difference
        raise Difference(path.name, f"{name}: {what}", AGAIN if name in listed else "do not use it")


def _same(existing: version_store.Version, facts: dict[str, Any]) -> version_store.Version:
    if existing.card != facts:
        raise console.Problem(
            f"{existing.reference} is here already, with other contents",
            "versions do not change: register or pack yours under another version",
        )
    return existing


def _room(root: Path, facts: dict[str, Any]) -> None:
    needed, free = sum(e["bytes"] for e in facts["files"].values()), version_store.free_space(root)
    if needed > free:
        text = f"{console.size(needed)} to unpack, {console.size(free)} free at {paths.show(root)}"
        raise console.Problem(text, "free space there")


def _publish(opened, facts, members, staged: version_store.Version, final: version_store.Version):
    for member, entry in members.items():
        _extract(opened, entry, staged.folder / member, facts["files"][member], member)
    publish.json_file(staged.folder / cards.FILE, facts)
    verification.verify(staged)

    def fill(version: version_store.Version) -> None:
        for file in [*members, cards.FILE]:
            (version.folder / file).parent.mkdir(parents=True, exist_ok=True)
            os.rename(staged.folder / file, version.folder / file)

    try:
        return version_store.publish_as(final, fill), True
    except FileExistsError:
        return _same(final, facts), False


def _extract(opened, entry, target: Path, wanted: dict[str, Any], member: str) -> None:
    """Write one member, never more bytes than the card says, and compare its hash on the way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, remaining = hashlib.sha256(), wanted["bytes"]
    with opened.open(entry) as source, target.open("wb") as to:
        while block := source.read(1 << 20):
            remaining -= len(block)
            if remaining < 0:
                raise Difference(member, "longer than its card says: a bomb", "do not use it")
            digest.update(block)
            to.write(block)
    if remaining or digest.hexdigest() != wanted["sha256"]:
        raise Difference(member, "its SHA-256 is not that of the card", AGAIN)
