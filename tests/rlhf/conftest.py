"""What the tests of preference training share."""

import pytest

from support import preferences


@pytest.fixture
def work(tmp_path_factory, monkeypatch):
    """The miniature's work folder, as TANDEM_WORKDIR."""
    with preferences.work(tmp_path_factory.getbasetemp(), monkeypatch) as folder:
        yield folder
