"""Listings of a host: every path that is used is plain, below what was asked for, and one file."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import console
from transfer import adapter_units, address, host, listing

GOOD = b"644 7 5 1700000000.5 1700000000.5 "
TOPS = ("adapters", "reports")


def gpu1() -> host.Host:
    return host.host_at(address.parse("gpu1", "tandem"))


def read(*paths: str | bytes, kind: bytes = b"nul", below=TOPS) -> listing.Listing:
    """The listing of regular files at `paths`."""
    end = b"\0" if kind == b"nul" else b"\n"
    records = [GOOD + (p if isinstance(p, bytes) else p.encode()) for p in paths]
    return listing.read_listing(gpu1(), kind + b"\n" + end.join(records) + end, below)


@pytest.mark.parametrize(
    "path",
    [
        "adapters/../../x", "/etc/passwd", "adapters//x", "adapters/./x", "adapters/x/", "./../x",
        "adapters/..", "adapters2/x", "etc/x", "adapters/a\nb", "adapters/a\x1b[2Jb", "../x",
        "adapters/" + "x" * 300, "adapters/a\u2028b", "Adapters/x", "adapters/a\rb",
        "reports/\x7f", "adapters/" + "/".join("ab" for _ in range(500)),
    ],
)  # fmt: skip
def test_a_path_that_is_not_plain_or_not_asked_for_is_refused_by_name(path):
    result = read(path)
    assert not result.files and len(result.refused) == 1


def test_a_path_below_a_file_is_refused_however_often_it_comes():
    result = read("adapters", "adapters/0/0", "adapters/0/0", "adapters/0/1")
    assert list(result.files) == ["adapters"]
    assert result.refused["adapters/0/1"] == "is below a file there"


@pytest.mark.parametrize("path", [b"adapters/\xff\xfe", b"reports/a\x80"])
def test_bytes_that_are_no_text_are_refused(path):
    assert list(read(path).refused) == [os.fsdecode(path)]


@pytest.mark.parametrize(
    "path", ["adapters/mapper/v1.0.0/card.json", "reports/ü '\"$(x)/a b", "reports/日本　語.html"]
)
def test_ordinary_paths_of_any_language_are_taken(path):
    assert list(read(path).files) == [path]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("reports/README.md", "reports/readme.md"),
        ("adapters/Foo/v1.0.0/w", "adapters/foo/v1.0.0/w"),
        ("adapters/Foo/v1.0.0/w", "adapters/foo/v2.0.0/x"),
        ("reports/é", "reports/e\u0301"),
        ("reports/straße", "reports/STRASSE"),
        ("reports/a\u200db/x", "reports/ab/y"),
        ("reports/\ufeffREADME.md", "reports/readme.md"),
        ("reports/a", "reports/a/b"),
        ("reports/a/b", "reports/a"),
    ],
)
def test_of_two_names_that_are_one_file_on_a_mac_the_second_is_refused(first, second):
    result = read(first, second)
    assert list(result.files) == [first] and list(result.refused) == [second]


def test_the_same_names_are_no_clash_where_nothing_is_written_by_them():
    assert len(read("a/README.md", "a/readme.md", below=()).files) == 2


PART = st.text(st.characters(blacklist_characters="/\0"), min_size=0, max_size=8) | st.sampled_from(
    ["..", ".", "", "adapters", "reports", "runs", "v1.0.0", "A", "a", "é", "e\u0301", "-rf"]
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(paths=st.lists(st.lists(PART, min_size=1, max_size=6).map("/".join), max_size=12))
def test_whatever_a_host_lists_each_path_is_used_safely_or_named(paths, tmp_path_factory):
    try:
        result = read(*[os.fsencode(p.encode(errors="replace").decode()) for p in paths])
    except console.Problem:
        return
    root = "/laptop"
    folded = [listing.folded(path) for path in result.files]
    assert len(set(folded)) == len(folded)
    for path in result.files:
        assert os.path.normpath(f"{root}/{path}") == f"{root}/{path}"
        assert path.partition("/")[0] in TOPS
        assert not any(other.startswith(path + "/") for other in result.files)
    listed = {p.removeprefix("./") for p in paths if p}
    named = result.files.keys() | result.refused.keys()
    shown = {p.encode(errors="replace").decode() for p in listed}
    assert shown - {p[: len(p)] for p in named} <= {p for p in shown if p in ("", ".")}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(answer=st.binary(max_size=300))
def test_any_bytes_are_a_listing_or_one_line(answer):
    for output in (answer, b"nul\n" + answer, b"lines\n" + answer, b"facts\n\n" + answer):
        for reader in (
            lambda o: listing.read_listing(gpu1(), o, TOPS),
            lambda o: listing.HostState(gpu1(), o, TOPS).listing(),
        ):
            try:
                reader(output)
            except console.Problem as problem:
                assert "\n" not in str(problem) and len(str(problem)) < 1000


@pytest.mark.parametrize(
    "record",
    [
        "999 7 5 1 1 p",
        "644 x 5 1 1 p",
        "644 7 -5 1 1 p",
        "644 7 5 now 1 p",
        "644 7 5 1 1 ",
        "644 7 5",
        "644 7 5 1e9 1 p",
        "6441234 7 5 1 1 p",
        "644 7 9999999999999999999999999999999999 1 1 p",
    ],
)
def test_a_record_with_a_field_of_another_type_is_one_line(record):
    with pytest.raises(console.Problem, match="not one that a sync understands"):
        listing.read_listing(gpu1(), b"nul\n" + record.encode() + b"\0", TOPS)
    in_lines = listing.read_listing(gpu1(), b"lines\n" + record.encode() + b"\n", TOPS)
    assert not in_lines.files and len(in_lines.refused) == 1


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("find: ‘adapters/m/v1.0.0/weights’: Permission denied", "adapters/m/v1.0.0/weights"),
        ("find: 'adapters/m': Permission denied", "adapters/m"),
        ("find: adapters/a b: Permission denied", "adapters/a b"),
        ("find: ./x: Input/output error", "x"),
        ("stat: cannot stat 'adapters/x': Permission denied", "adapters/x"),
    ],
)
def test_what_could_not_be_read_there_is_named(line, path):
    result = listing.read_listing(gpu1(), b"nul\nerror " + line.encode() + b"\0", TOPS)
    assert list(result.unread) == [path]


@pytest.mark.parametrize(
    "line", ["find: 'reports': No such file or directory", "find: ./x: Too many levels of links"]
)
def test_a_missing_folder_and_a_loop_of_links_are_no_failure(line):
    assert not listing.read_listing(gpu1(), b"nul\nerror " + line.encode() + b"\0", TOPS).unread


def test_what_an_earlier_listing_knew_is_read_as_a_new_one_would_be():
    first = read("./a/ü b", "./c", "./d\\n", below=())
    signatures = [(path, file.sig) for path, file in first.files.items()]
    known = listing.records_of(signatures)
    assert known == first.records
    answer = b"nul\n" + b"\0".join([*known, GOOD.replace(b" 5 ", b" 6 ") + b"./c", b""])
    again = listing.read_listing(gpu1(), answer, (), known)
    assert again.files == listing.read_listing(gpu1(), answer).files
    assert again.files["c"].size == 6, "the record there counts, not the one that was known"


@pytest.mark.parametrize("sig", ["", "644 7 5", "x 7 5 1.5 1.5", "644 7 five 1.5 1.5", 7, None])
def test_a_damaged_record_is_no_listing(sig):
    assert listing.records_of([("a", sig)]) == {}


def test_a_failure_that_names_no_path_is_one_line():
    with pytest.raises(console.Problem, match="listing there failed"):
        listing.read_listing(gpu1(), b"nul\nerror Segmentation fault\0", TOPS)


@pytest.mark.parametrize("head", [b"free 1\nrm -rf /", b"FREE 1", b"free" + b"x" * 9000, b"\xff"])
def test_facts_are_names_and_values_or_one_line(head):
    if head == b"free 1\nrm -rf /":
        assert listing.read_facts(gpu1(), b"free many\nrm -rf /") == {"free": "", "rm": "-rf /"}
        return
    with pytest.raises(console.Problem, match="not one that a sync understands"):
        listing.read_facts(gpu1(), head + b" " + b"y" * 5000)


def test_only_hashes_that_were_asked_for_are_taken():
    output = f"{'a' * 64} *./x\n{'b' * 64} *./../y\n".encode()
    assert listing.read_hashes(output, ["x"]) == {"x": "a" * 64}


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], ""),
        (["config.json", "model-00001-of-00002.safetensors"], ""),
        (["adapter_model.safetensors"], "adapter_config.json"),
        (["adapter_config.json", "README.md", "training_args.bin"], "its weights"),
        ([], "adapter_config.json"),
    ],
)
def test_final_is_whole_with_a_configuration_and_weights(names, missing):
    assert adapter_units.missing_part("adapters/runs/r1/final", names) == missing


def test_folders_without_end_are_refused_and_not_held_in_memory(monkeypatch):
    monkeypatch.setattr(listing, "MOST_FOLDERS", 50)
    check = listing.NameCheck(("adapters",))
    deep = [check.why_refused(f"adapters/runs/r{n}/" + "d/" * 40 + "f") for n in range(10)]
    assert deep[0] == "" and deep[-1] == "is in a folder beyond the first 50"
    assert len(check._spelled) < 200
    known = "adapters/runs/r0/" + "d/" * 40
    assert all(check.why_refused(f"{known}g{n}") == "" for n in range(100)), "a known folder"
    few = listing.NameCheck(("adapters",))
    assert all(few.why_refused(f"adapters/runs/r/f{n}") == "" for n in range(100))
    assert few.why_refused("adapters/runs/s/f") == "", "files are not counted"
