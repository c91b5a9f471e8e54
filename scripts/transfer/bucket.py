"""A bucket as the other side of a sync: BUCKET=REMOTE:name/path, a remote of the user's rclone.

name/path/data/processed/…            objects under the names that the files have on a host
          .manifest/LAPTOP-up.json    {path: [SHA-256, signature]} that this laptop verified
          .incoming/LAPTOP/…          uploads that wait until their checksums agree
          .replaced/STAMP/…           what a push found and did not bring itself

A bucket runs no commands and has no lock. So each laptop writes a manifest of its own, last, and a
line of it counts only while the object still has the size and checksum that the line names. What no
manifest vouches for is read in full and hashed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable
from typing import Any

from kit import console, publish
from transfer import rclone
from transfer.adapter_units import unit_of
from transfer.address import Address
from transfer.host import Host
from transfer.listing import (
    LISTING_BYTES,
    UNKNOWN_TIME,
    ListedFile,
    Listing,
    NameCheck,
    read_hashes,
)

MANIFESTS, STAGES, REPLACED = ".manifest", ".incoming", ".replaced"
HASHES = ("sha256", "md5", "sha1")  # those of a store that hashlib has too, the best first
MANIFEST_BYTES = 64 << 20
MANIFEST = re.compile(re.escape(MANIFESTS) + r"/[A-Za-z0-9._-]{1,200}\.json")
MOST_MANIFESTS = 200  # each is a question of its own, and only saves reading


class BucketState:
    """What a listing found, with the attributes of a HostState."""

    was_read = True

    def __init__(self, facts: dict[str, str], listing: Listing):
        self.facts, self._listing = facts, listing
        lines = "\n".join(f"{path}\t{file.sig}" for path, file in sorted(listing.files.items()))
        self.digest = hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()

    def listing(self) -> Listing:
        """The objects there."""
        return self._listing


class BucketHost(Host):
    """A bucket where push and pull expect a host: it lists, hashes and names objects by rclone."""

    is_bucket = True

    def __init__(self, where: Address):
        super().__init__(where)
        self.place = where.name
        self.verify = False  # read every object, whatever a manifest says
        self.vouched: dict[str, str] = {}  # {path: SHA-256} by the manifests, at the last listing
        self.expected: dict[str, str] = {}  # the same where the store gives no such checksum
        self.manifests: dict[str, str] = {}  # their SHA-256 as they were then

    def open(self) -> None:
        """Make the private folder of this command; Problem where there is no rclone."""
        rclone.program()
        super().open()

    def log_in(self) -> None:
        """Nothing: rclone logs in for each question."""

    def at(self, below: str = "") -> str:
        """A folder as rclone names it. Its last slash spares rclone the question if it is one."""
        return f"{self.name}/{below}".rstrip("/") + "/"

    def object(self, path: str) -> str:
        """One object as rclone names it."""
        return f"{self.name}/{path}"

    def ask(self, words: list[str], **options) -> bytes:
        """rclone's answer. Only a connection that worked once is taken up again."""
        answer = rclone.run(words, self.name, retry=self.reached, **options)
        self.reached = self.reached or words[0] != "backend"  # that asks nobody
        return answer

    @functools.cached_property
    def features(self) -> dict[str, Any]:
        """What the store can do, as rclone knows it, and its `Hashes`: asks nobody."""
        try:
            made = json.loads(self.ask(["backend", "features", f"{self.name.partition(':')[0]}:"]))
            hashes = made.get("Hashes")
            return made["Features"] | {"Hashes": hashes if isinstance(hashes, list) else []}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    @property
    def hash_kind(self) -> str:
        """The checksum that the store itself gives, '' for none."""
        offered = self.features.get("Hashes") or []
        return next((kind for kind in HASHES if kind in offered), "")

    @property
    def proof(self) -> str:
        """By what a push compares what arrived, as its last line says it."""
        return (self.hash_kind or "sha256").upper().replace("SHA256", "SHA-256")

    def listing(self, below: tuple[str, ...] = (), skipped: Iterable[str] = ()) -> BucketState:
        """The objects below the folders `below` (() for all), without the folders `skipped`."""
        rules = [f"- /{name}/**" for name in (REPLACED, *skipped)]
        if below:
            rules += [f"+ /{name}/**" for name in (*below, MANIFESTS)] + ["- *"]
        objects_by_path = self.objects("", rules)
        manifests = sorted(filter(MANIFEST.fullmatch, objects_by_path))[:MOST_MANIFESTS]
        listing, names = Listing(), NameCheck(below)
        for path, (size, tag, twice) in objects_by_path.items():
            if path.split("/")[0] in (MANIFESTS, STAGES):
                continue
            if why := names.why_refused(path) or ("is there twice" if twice else ""):
                listing.refused[path] = why
            else:
                # its time is that of the upload, which says nothing of the file
                listing.files[path] = ListedFile(size, UNKNOWN_TIME, False, f"{size} {tag}")
        self._read_manifests(manifests, listing)
        staged = any(path.startswith(f"{STAGES}/") for path in objects_by_path)
        present = objects_by_path or self.objects("", [f"- /{REPLACED}/**"])
        facts = {"there": "yes" if present else "", "writable": "yes", "staged": "yes" * staged}
        return BucketState(facts, listing)

    def objects(self, below: str, rules: list[str] = ()) -> dict[str, tuple[int, str, bool]]:
        """{path: (bytes, the store's checksum or time, whether the name is there twice)}."""
        words = ["lsjson", "--recursive", "--files-only", "--hash", "--fast-list",
                 "--no-mimetype", "--use-server-modtime", self.at(below)]  # fmt: skip
        for rule in rules:
            words += ["--filter", rule]
        try:
            answer = self.ask(words, limit=LISTING_BYTES)
        except rclone.RcloneFailed as failed:
            if failed.exit_code != 3:
                raise
            if self.features.get("BucketBased"):
                raise console.Misuse(
                    f"{self.name}: there is no such bucket",
                    f"check the name: rclone lsd {self.name.partition(':')[0]}: lists them",
                ) from None
            return {}
        try:
            return _read_objects(json.loads(answer))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise console.Problem(
                f"{self.name}: rclone's listing is not one that a sync understands",
                f"look at: rclone lsjson {self.name}",
            ) from None

    def _read_manifests(self, paths: list[str], listing: Listing) -> None:
        """Take the lines of all manifests that still fit the objects; a damaged one says nothing.

        Manifests only save reading: they are as trustworthy as whoever can write to the bucket.
        """
        self.vouched, self.expected, self.manifests = {}, {}, {}
        for path in paths:
            with contextlib.suppress(rclone.RcloneFailed, ValueError, KeyError, AttributeError,
                                     TypeError, RecursionError):  # fmt: skip
                text = self.ask(["cat", self.object(path)], limit=MANIFEST_BYTES)
                self.manifests[path] = hashlib.sha256(text).hexdigest()
                for name, (digest, sig) in json.loads(text)["files"].items():
                    file = listing.files.get(name)
                    if not file or not publish.SHA256.fullmatch(digest):
                        continue
                    if file.sig == sig:
                        self.vouched[name] = digest
                    elif is_incomparable(file.sig, sig):
                        self.expected[name] = digest

    def unlisted_part(self, names: list[str]) -> str:
        """One of `names` that no manifest vouches for where one does for others, else ''.

        Then a push is putting that folder in place, or was killed in doing so.
        """
        listed = self.vouched.keys() | self.expected.keys()
        unlisted = [name for name in names if name not in listed]
        return min(unlisted) if len(unlisted) < len(names) and unlisted else ""

    def hashes(self, files: Iterable[str]) -> dict[str, str]:
        """{path: SHA-256}: the manifests' where they fit, else of the object, read in full.

        What a manifest expects of a run's folder or a version, it has to be.
        """
        files = list(files)
        known = {} if self.verify else {p: self.vouched[p] for p in files if p in self.vouched}
        known |= {p: self.expected[p] for p in files if p in self.expected and unit_of(p)}
        return known | self.read_hashes("", [path for path in files if path not in known])

    def read_hashes(self, below: str, names: list[str]) -> dict[str, str]:
        """{name: SHA-256} of objects below a folder, each read in full."""
        if not names:
            return {}
        words = ["hashsum", "sha256", "--download", *self.names(names), self.at(below)]
        return read_hashes(self.ask(words, limit=LISTING_BYTES), names)

    def names(self, names: Iterable[str]) -> list[str]:
        """rclone's option for a list of names."""
        listed = self.private / f"files.{os.urandom(4).hex()}"
        listed.write_bytes(b"".join(os.fsencode(name) + b"\n" for name in names))
        return ["--files-from-raw", str(listed)]

    def write_manifest(self, laptop: str, direction: str, files: dict[str, list[str]]) -> None:
        """Publish this laptop's manifest of a TransferRecord's files, the last object of a push."""
        kept = {path: [digest, checksum] for path, (digest, _, checksum) in sorted(files.items())}
        content = (json.dumps({"files": kept}, indent=0) + "\n").encode()
        name = f"{MANIFESTS}/{laptop}-{direction}.json"
        if self.manifests.get(name) != hashlib.sha256(content).hexdigest():
            self.ask(["rcat", self.object(name)], data=content)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects."""
        self.ask(["delete", *self.names(names), self.at()])

    def drop_stage(self, stage: str) -> None:
        """Remove what waits in one laptop's staging folder."""
        if self.objects(stage):
            self.ask(["delete", "--rmdirs", self.at(stage)])

    def check_names(self, names: Iterable[str]) -> None:
        """Problem where two of `names` would be one object: in a store that ignores case."""
        if not self.features.get("CaseInsensitive"):
            return
        check = NameCheck(tuple({name.partition("/")[0] for name in names}))
        for name in sorted(names):
            if why := check.why_refused(name):
                raise console.Problem(f"{self.name}: {name} {why}", "rename one of the two")


def is_incomparable(signature: str, listed: str) -> bool:
    """Whether two signatures have one size and checksums of two kinds: an object that came in
    parts has none."""
    (size, _, tag), (other_size, _, other_tag) = signature.partition(" "), listed.partition(" ")
    return size == other_size and tag.partition(":")[0] != other_tag.partition(":")[0]


def _read_objects(records: list[dict[str, Any]]) -> dict[str, tuple[int, str, bool]]:
    objects: dict[str, tuple[int, str, bool]] = {}
    if not isinstance(records, list):
        raise TypeError
    for record in records:
        path, size = str(record["Path"]), int(record["Size"])
        hashes = record.get("Hashes") or {}
        kind = next((kind for kind in HASHES if hashes.get(kind)), "")
        tag = f"{kind}:{hashes[kind]}" if kind else f"at:{record.get('ModTime') or ''}"
        objects[path] = (max(0, size), " ".join(tag.split())[:200], path in objects)
    return objects
