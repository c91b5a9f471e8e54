"""Syncs with a real bucket: `rclone serve s3` (and webdav, without checksums) on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from kit import console
from support.bucket_server import SECRET, AnsweringBucket, BucketDesk, BucketServer, find_rclone
from support.processes import wait_until
from transfer import address, rclone

ROWS = "data/processed/train_sft.jsonl"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("s3://name/path", "a URL does not go here; .*BUCKET=s3:name/path"),
        ("gs://name", "BUCKET=gs:name"),
        (":s3,secret_access_key=xyzzy:name", "keys do not belong into a command"),
        ("s3,secret_access_key=xyzzy:name", "'s3…': it names no remote"),
        ("./folder", "it names no remote"),
        ("/folder", "it names no remote"),
        ("name", "it names no remote"),
        ("s3:", "names no bucket"),
        ("s3:/", "names no bucket"),
        ("s3:a/../b", "cannot be used"),
        ("s3:a b", "cannot be used"),
        ("s3:$(x)", "cannot be used"),
        ("s3:a\n", "cannot be used"),
        ("s3:-x", "cannot be used"),
    ],
)
def test_a_bucket_that_is_none_is_one_line_and_shows_no_key(text, line):
    with pytest.raises(console.Misuse, match=line) as refused:
        address.parse_bucket(text)
    assert "xyzzy" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [("s3:n/p", "s3:n/p"), ("my-s3:n//p/./q/", "my-s3:n/p/q"), ("drive:/tandem", "drive:tandem")],
)
def test_a_bucket_is_written_in_one_way(text, name):
    assert address.parse_bucket(text).name == name


@pytest.mark.parametrize(
    ("message", "line", "again"),
    [
        ('didn\'t find section in config file ("x")', "no remote of the name s3", False),
        ("api error NoSuchBucket: x", "there is no such bucket", False),
        ("StatusCode: 403, api error SignatureDoesNotMatch: x", "refused the keys", False),
        ("googleapi: Error 403: quotaExceeded", "no space is left", False),
        ("dial tcp: lookup x: no such host", "the connection failed", True),
        ("write /x: no space left on device", "no space is left", False),
        ("something else", r"rclone ended with 1 \(something else\)", False),
    ],
)
def test_what_rclone_says_has_a_meaning_and_a_remedy(message, line, again):
    problem, may_help = rclone.explain("s3:n", 1, [message])
    assert may_help is again and problem.remedy and "\n" not in str(problem)
    with pytest.raises(console.Problem, match=line):
        raise problem


def test_what_rclone_says_is_cleared_of_secrets(monkeypatch):
    monkeypatch.setenv("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", "xyzzy-1")
    cleared = rclone.without_secrets(
        "xyzzy-1 https://me:word@host/p?X-Amz-Signature=abc&X-Amz-Credential=def&prefix=p"
    )
    assert cleared == "… https://…host/p?…&…&prefix=p"


def test_two_names_that_one_store_takes_for_one_are_refused():
    features = {"Features": {"CaseInsensitive": True, "BucketBased": False}, "Hashes": ["md5"]}
    store = AnsweringBucket(backend=json.dumps(features).encode())
    store.check_names(["data/a", "data/b"])
    with pytest.raises(console.Problem, match="is the same name as .*; rename one of the two"):
        store.check_names(["data/a.txt", "data/A.txt"])


def test_an_object_that_is_there_twice_is_refused_and_hides_no_other():
    twice = [{"Path": f"adapters/{name}", "Size": 1, "Hashes": {"md5": "0"}} for name in "aab"]
    listing = AnsweringBucket(lsjson=json.dumps(twice).encode()).listing(("adapters",)).listing()
    assert listing.refused == {"adapters/a": "is there twice"} and list(listing.files) == [
        "adapters/b"
    ]


@pytest.mark.parametrize("answer", [b"", b"{", b"{}", b"[1]", b'[{"Path": "x"}]', b"[" * 9999,
                                    b'[{"Path": "x", "Size": "much"}]',
                                    b'[{"Path": "x", "Size": Infinity}]'])  # fmt: skip
def test_a_listing_that_is_none_is_one_line(answer):
    with pytest.raises(console.Problem, match="is not one that a sync understands"):
        AnsweringBucket(lsjson=answer).objects("")


# --- a real one -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["s3", "webdav"])
def server(request, tmp_path_factory):
    program = find_rclone()
    if not program:
        pytest.skip("no rclone with `serve s3`; apt-get install rclone (1.65 or newer)")
    made = BucketServer(program, tmp_path_factory.mktemp("bucket"), request.param)
    yield made
    made.stop()


@pytest.fixture
def desk(server, tmp_path):
    """A laptop, and `desk.at`: a path of its own in the bucket."""
    made = BucketDesk(server, tmp_path / "laptop")
    made.at = tmp_path.name
    return made


def up(desk, *words, **more):
    return desk.sync("up", *words, bucket=f"s3:bkt/{desk.at}", **more)


def down(desk, *words, **more):
    return desk.sync("down", *words, bucket=f"s3:bkt/{desk.at}", **more)


def there(desk, name):
    return desk.server.path(f"{desk.at}/{name}")


def put(desk, name, text):
    there(desk, name).parent.mkdir(parents=True, exist_ok=True)
    there(desk, name).write_text(text)


real = pytest.mark.slow


@real
def test_a_push_is_whole_and_the_next_one_sends_nothing(desk):
    assert "would be sent" in up(desk, "--dry-run") and not there(desk, "").exists()
    assert "verified on s3:bkt" in up(desk)
    assert there(desk, ROWS).read_text() == '{"messages": []}\n'
    [manifest] = there(desk, ".manifest").iterdir()
    assert ROWS in json.loads(manifest.read_text())["files"]
    assert not any(p.is_file() for p in there(desk, ".incoming").rglob("*"))
    assert "nothing to send" in up(desk) and "nothing to send" in up(desk, "--verify")


@real
def test_an_object_that_is_not_ours_is_kept_and_ours_is_not(desk):
    up(desk)
    desk.write(ROWS, "second\n")
    assert ".replaced" not in up(desk)
    put(desk, ROWS, "somebody's own\n")
    desk.write(ROWS, "a third one\n")
    assert "what was there is in" in up(desk)
    [kept] = there(desk, ".replaced").glob(f"*/{ROWS}")
    assert kept.read_text() == "somebody's own\n"
    assert there(desk, ROWS).read_text() == "a third one\n"


@real
def test_a_second_laptop_trusts_the_first_ones_manifest(desk, server, tmp_path):
    up(desk)
    other = BucketDesk(server, tmp_path / "other")
    other.at = desk.at
    log = tmp_path / "words"
    assert "nothing to send" in up(other, RCLONE=wrapped(desk, tmp_path, f'echo "$*" >>{log}'))
    if server.kind == "s3":
        assert "hashsum" not in log.read_text()
    assert SECRET not in log.read_text()


def wrapped(desk, folder, line):
    """A program that does `line` of shell and then is rclone."""
    script = folder / "rclone"
    script.write_text(f'#!/bin/sh\n{line}\nexec {desk.server.rclone} "$@"\n')
    script.chmod(0o755)
    return str(script)


@real
def test_killed_while_it_sends_nothing_has_its_name_and_the_next_one_ends_it(desk, tmp_path):
    desk.write("data/processed/big.jsonl", "x" * 4_000_000)
    began = tmp_path / "began"
    slow = wrapped(
        desk, tmp_path, f'case $1 in (copy) touch {began}; set -- "$@" --bwlimit 1M;; esac'
    )
    variables = os.environ | {
        "TANDEM_WORKDIR": str(desk.work), "BUCKET": f"s3:bkt/{desk.at}", "RCLONE": slow,
        "RCLONE_CONFIG": str(desk.server.config),
    }  # fmt: skip
    variables.pop("HOST", None)
    process = subprocess.Popen(
        [str(desk.kit / "scripts" / "sync_to_remote.sh")], env=variables, start_new_session=True
    )
    wait_until(began.exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not there(desk, "data").exists() and not there(desk, ".manifest").exists()
    assert "verified on" in up(desk)
    assert there(desk, "data/processed/big.jsonl").stat().st_size == 4_000_000
    assert not any(p.is_file() for p in there(desk, ".incoming").rglob("*"))


def put_run(desk, name="r1"):
    run = f"adapters/runs/{name}"
    put(desk, f"{run}/status.json", '{"state": "completed"}')
    put(desk, f"{run}/final/adapter_config.json", "{}")
    put(desk, f"{run}/final/adapter_model.safetensors", "weights")


@real
def test_a_run_comes_down_whole_and_a_half_one_not_at_all(desk):
    put_run(desk)
    put(desk, "adapters/runs/r2/final/adapter_config.json", "{}")
    assert "fetched 3 files" in down(desk)
    final = desk.work / "adapters" / "runs" / "r1" / "final" / "adapter_model.safetensors"
    assert final.read_text() == "weights" and not (desk.work / "adapters/runs/r2").exists()
    assert "nothing to fetch" in down(desk)


@real
@pytest.mark.parametrize("half", ["without its card", "without a file of its card"])
def test_a_half_uploaded_version_is_refused(desk, half):
    version = "adapters/mapper/v1.0.0"
    put(desk, f"{version}/adapter_config.json", "{}")
    if half != "without its card":
        listed = {"adapter_config.json": {"sha256": "0" * 64, "size": 2}, "x.safetensors":
                  {"sha256": "0" * 64, "size": 1}}  # fmt: skip
        put(desk, f"{version}/card.json", json.dumps({"files": listed}))
    assert "not taken" in down(desk, fails=1)
    assert not (desk.work / version).exists()


@real
def test_names_that_fall_together_are_refused(desk):
    put_run(desk)
    put(desk, "adapters/runs/r1/log.txt", "one")
    put(desk, "adapters/runs/r1/Log.txt", "two")
    output = down(desk, fails=1)
    assert "is the same name as" in output
    assert not (desk.work / "adapters/runs/r1/log.txt").exists()


@real
@pytest.mark.parametrize("text", ["changed", "longer than before", "long" * 50_000, "x"])
def test_an_object_that_changes_while_it_is_fetched_is_fetched_again(desk, tmp_path, text):
    put_run(desk)
    (tmp_path / "new").write_text(text)
    weights, once = there(desk, "adapters/runs/r1/final/adapter_model.safetensors"), tmp_path / "1"
    change = (
        f"case $1 in (copy) [ -e {once} ] || cat {tmp_path}/new >{weights}; touch {once};; esac"
    )
    assert "fetched 3 files" in down(desk, RCLONE=wrapped(desk, tmp_path, change))
    final = desk.work / "adapters" / "runs" / "r1" / "final" / "adapter_model.safetensors"
    assert final.read_text() == text


@real
def test_a_damaged_manifest_vouches_for_nothing(desk):
    put_run(desk)
    for name, text in (("a", "{"), ("b", '{"files": []}'), ("c", '{"files": {"x": [1]}}')):
        put(desk, f".manifest/{name}.json", text)
    lie = {"adapters/runs/r1/status.json": ["0" * 64, "22 md5:0"]}
    put(desk, ".manifest/d.json", json.dumps({"files": lie}))
    assert "fetched 3 files" in down(desk)


@real
@pytest.mark.parametrize(
    ("bucket", "code", "line"),
    [
        ("nope:bkt/p", 2, "no remote of the name nope; rclone listremotes"),
        ("wrong:bkt/p", 1, "refused the keys"),
        ("down:bkt/p", 1, "the connection failed"),
        ("s3:none/p", 2, "there is no such bucket"),
    ],
)
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_bucket_that_cannot_be_used_is_one_line(desk, bucket, code, line, way):
    if desk.server.kind == "webdav" and bucket != "nope:bkt/p":
        bucket, code, line = {"wrong:bkt/p": ("wrong:bkt/p", 1, "refused the keys"),
                              "down:bkt/p": ("down:bkt/p", 1, "the connection failed"),
                              "s3:none/p": ("nope:none/p", 2, "no remote")}[bucket]  # fmt: skip
    output = desk.sync(way, bucket=bucket, fails=code).strip()
    assert line in output and "\n" not in output


@real
def test_an_empty_bucket_gives_nothing_and_says_so(desk):
    assert "is empty; send the kit there first" in down(desk, fails=1)


@real
def test_without_rclone_the_line_says_what_to_install(desk):
    output = up(desk, fails=1, RCLONE="/nowhere/rclone").strip()
    assert "RCLONE=/nowhere/rclone is no program" in output and "\n" not in output
    output = desk.sync("up", "gpu1", "--bucket", "s3:bkt/p", fails=2)
    assert "name one of them" in output
