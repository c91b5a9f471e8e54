"""Fixtures of this room: a base with three adapters, and a server of them."""

import pytest

from support import served_models
from support.model_servers import RunningServer


@pytest.fixture(scope="package")
def work(tmp_path_factory):
    """A base with three adapters, registered."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("served")
    served_models.build(folder)
    return folder


@pytest.fixture(scope="package")
def server(work):
    """The server that most tests ask: four answers at once, four may wait."""
    with RunningServer(work, "--rows", "4", "--queue", "4") as running:
        yield running
