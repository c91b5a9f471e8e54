"""Fixtures of this room: a work folder to train in."""

import pytest

from support import tiny


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with rows and a trained miniature."""
    folder = tmp_path_factory.mktemp("work")
    tiny.write_rows(folder)
    tiny.build(folder)
    return folder
