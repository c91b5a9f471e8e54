"""JSON that comes from elsewhere is bounded in depth, size and numbers; errors are one line."""

import json
import time

import pytest

from kit import clock, console, json_files


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_depth_is_counted_in_lists_and_objects():
    json_files.check_size({"a": 1}, depth=1)
    json_files.check_size(nested(5), depth=5)
    with pytest.raises(ValueError, match="nested deeper than 4 levels"):
        json_files.check_size(nested(5), depth=4)
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        json_files.parse(json.dumps({"a": nested(64)}).encode())
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        json_files.parse(b'{"a": ' + b"[" * 50_000)


def test_anchors_that_expand_without_end_are_counted_and_not_walked():
    value: object = [0] * 1000
    for _ in range(8):
        value = [value] * 1000  # 10**27 numbers
    with pytest.raises(ValueError, match="more than 200,000 parts"):
        json_files.check_size(value, depth=12, parts=200_000)


def test_numbers_that_are_none_are_null():
    assert json_files.parse(b'{"a": NaN, "b": 1e999, "c": 1.5}') == {"a": None, "b": None, "c": 1.5}
    with pytest.raises(ValueError, match="a number of 500 digits"):
        json_files.parse(b'{"a": ' + b"9" * 500 + b"}")


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("one.\ntwo"), "one"), (KeyError(), "KeyError"), (OSError("\n \n"), "OSError")],
)
def test_an_error_is_one_line(error, line):
    assert console.first_line(error) == line


def test_times_are_in_utc(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        for stamp, form in (
            (clock.timestamp, "%Y-%m-%dT%H:%M:%SZ"),
            (clock.name_stamp, "%Y%m%d-%H%M%S"),
        ):
            before = time.strftime(form, time.gmtime())
            assert before <= stamp() <= time.strftime(form, time.gmtime())
    time.tzset()
