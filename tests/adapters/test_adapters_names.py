"""name@version: which version a text means."""

from __future__ import annotations

import pytest

from adapters import names
from kit import console

THERE = [(1, 0, 0), (1, 2, 0), (1, 2, 9), (1, 10, 0), (2, 0, 0), (0, 2, 3), (0, 3, 0)]


@pytest.mark.parametrize(
    ("wanted", "best"),
    [
        ("latest", (2, 0, 0)),
        ("v1.2.0", (1, 2, 0)),
        ("1.2.0", (1, 2, 0)),
        ("1.2", (1, 2, 9)),
        ("v1", (1, 10, 0)),
        ("^1.0", (1, 10, 0)),
        ("^1", (1, 10, 0)),
        ("^v1.2.1", (1, 10, 0)),
        ("^0.2", (0, 2, 3)),
        ("^0.2.3", (0, 2, 3)),
        ("^0", (0, 3, 0)),
        ("~1.2", (1, 2, 9)),
        ("~1.2.0", (1, 2, 9)),
        ("~1", (1, 10, 0)),
        (">=1.0,<2", (1, 10, 0)),
        ("<=1.2.0", (1, 2, 0)),
        ("==1.2.*", (1, 2, 9)),
        ("!=2.0.0", (1, 10, 0)),
    ],
)
def test_a_range_means_its_highest_version_by_number_not_by_text(wanted, best):
    assert names.matches(wanted, THERE)[-1] == best


@pytest.mark.parametrize("wanted", ["v3.0.0", "^3", "~1.3", ">2", "0.4"])
def test_a_range_without_a_version_is_empty(wanted):
    assert names.matches(wanted, THERE) == []


@pytest.mark.parametrize("wanted", ["banana", "^", "1.2.3.4", "v1.0.0-rc1", "01.0.0", "^x", "@1"])
def test_what_is_no_version_is_refused(wanted):
    with pytest.raises(console.Misuse, match="is not a version; write @v1.0.0"):
        names.matches(wanted, THERE)


def test_a_name_alone_means_latest_and_an_empty_version_is_refused():
    assert names.split("mapper-lora") == ("mapper-lora", "latest")
    assert names.split("mapper-lora@ ^1.0 ") == ("mapper-lora", "^1.0")
    with pytest.raises(console.Misuse, match="no version after @"):
        names.split("mapper-lora@")


def test_numbers_follow_each_other_by_the_rules_of_semantic_versions():
    assert names.after(None, "patch") == (1, 0, 0)
    assert [names.after((1, 2, 9), bump) for bump in names.BUMPS] == [
        (2, 0, 0), (1, 3, 0), (1, 2, 10)]  # fmt: skip
    assert names.number("v01.0.0") is None and names.number("v1.0") is None
    assert names.text((1, 20, 3)) == "v1.20.3"
