"""Fixtures of this room: a base with three adapters, and a server of them."""

import pytest

from support import adapter_runs, served_models
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


@pytest.fixture
def store(tmp_path, monkeypatch):
    """store.live(references) -> LiveVersions; store.more(bump) publishes a version of one-lora."""
    from adapters import register, version_store
    from serving import live_versions, model_catalog

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    root = tmp_path / "adapters"

    class Store:
        folder = root / "one-lora"

        def more(self, bump=None, name="one-lora", tensors=None, **changes):
            run = f"run{len(list(tmp_path.glob('adapters/runs/*')))}"
            adapter_runs.run(tmp_path, run, tensors, **changes)
            return register.register(root, run, name, bump=bump)

        def live(self, *references):
            versions = [version_store.resolve(root, reference) for reference in references]
            catalog = model_catalog.check(versions, None, model_catalog.BaseOptions())
            return live_versions.LiveVersions(catalog, references)

    made = Store()
    made.more()
    return made
