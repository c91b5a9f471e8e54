"""Versions that are damaged, change, fail to load or take long while a server runs."""

import shutil

import pytest


def test_the_folder_of_another_version_is_refused(store, tmp_path):
    """A copy under a new number, a link to another version: their answers would be wrong ones."""
    from kit import console

    live, first = store.live("one-lora"), store.folder / "v1.0.0"
    shutil.copytree(first, store.folder / "v1.1.0")
    (store.folder / "v1.2.0").symlink_to(first)
    shutil.copytree(first, tmp_path / "elsewhere")
    (store.folder / "v1.3.0").symlink_to(tmp_path / "elsewhere")
    (store.folder / "v1.4.0").symlink_to("/")  # which nobody reads through
    for version in live.candidates("one-lora")[1:]:
        with pytest.raises(console.Problem, match="it is of one-lora@v1.0.0, not of one-l|missing"):
            live.prepare(version)


ODD = [PermissionError(13, "Permission denied", "/secret/path"), FileNotFoundError(2, "gone", "/x"),
       MemoryError(), UnicodeDecodeError("utf-8", b"x", 0, 1, "odd")]  # fmt: skip


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_whatever_a_check_meets_refuses_that_version_alone(store, monkeypatch, error):
    from kit import console
    from serving import model_catalog

    live, newer = store.live("one-lora"), store.more("minor")

    def fail(*_):
        raise error

    monkeypatch.setattr(model_catalog.verification, "check_contents", fail)
    with pytest.raises(console.Problem, match="one-lora@v1.1.0 cannot be served: ") as refused:
        live.prepare(newer)
    assert "/" not in str(refused.value)


def test_a_version_that_became_whole_while_it_was_checked_is_looked_at_again(store, monkeypatch):
    from kit import console
    from serving import model_catalog

    live, newer = store.live("one-lora"), store.more("minor")
    weights = newer.folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(whole[:-5])
    check = model_catalog.verification.check_files

    def slow_check(folder, card):
        try:
            check(folder, card)
        finally:
            weights.write_bytes(whole)

    monkeypatch.setattr(model_catalog.verification, "check_files", slow_check)
    with pytest.raises(console.Problem, match="adapter_model.safetensors"):
        live.prepare(newer)
    made = live.prepare(newer)
    with pytest.raises(console.Problem, match="changed while it was loaded"):
        live.check_unchanged(made)  # slow_check wrote once more
    monkeypatch.undo()


@pytest.fixture
def service(store, monkeypatch):
    """A Service that is ready, whose engine takes every version; `loads` are its attempts."""
    from serving import service as services

    made = services.Service(store.live("one-lora").catalog, references=["one-lora"])
    made.state, made.loads = "ready", []

    async def load(version):
        made.loads.append(version.id)

    monkeypatch.setattr(made, "_load_one", load)
    return made


def resolved(service, *names, then=lambda: None):
    """What Service.resolve gives for names that are asked for at once: ids or errors; `then` is
    called when all have answered."""
    import asyncio

    async def ask_all():
        service._adding = asyncio.Lock()
        answers = await asyncio.gather(*map(service.resolve, names), return_exceptions=True)
        then()
        return answers

    return [getattr(one, "id", one) for one in asyncio.run(ask_all())]


def test_two_requests_for_one_new_version_load_it_once(store, service):
    store.more("minor")
    names = ["one-lora", "one-lora@v1.1.0", "one-lora@^1.0", "one-lora@v1.0.0"]
    newer = "one-lora@v1.1.0"
    assert resolved(service, *names) == [newer, newer, newer, "one-lora@v1.0.0"]
    assert service.loads == [newer] and service._coming == {}


def test_a_failing_load_is_a_refusal_and_an_older_version_answers(store, service, monkeypatch):
    async def fail(made):
        raise ValueError("no such layer\nTraceback")

    store.more("minor")
    monkeypatch.setattr(service, "_load_one", fail)
    older, refused = resolved(service, "one-lora", "one-lora@v1.1.0")
    assert older == "one-lora@v1.0.0" and (refused.status, refused.reason) == (
        404, "version_refused")  # fmt: skip
    assert "cannot be served: no such layer" in str(refused)


def test_a_thousand_damaged_versions_cost_a_request_a_few_looks(store, service, monkeypatch):
    from serving import service as services

    for n in range(1000):
        (store.folder / f"v2.{n}.0").mkdir()
    looks, prepare = [], service.live.prepare
    monkeypatch.setattr(service.live, "prepare", lambda v: looks.append(v.version) or prepare(v))
    assert resolved(service, "one-lora") == ["one-lora@v1.0.0"]
    assert looks == [f"v2.{n}.0" for n in range(999, 999 - services.MOST_REFUSED, -1)]


def test_a_version_that_takes_too_long_to_check_keeps_nobody_for_ever(store, service, monkeypatch):
    import threading

    from serving import service as services

    store.more("minor")
    monkeypatch.setattr(services, "NEWER_SECONDS", 0.01)
    check, answered = service.live.prepare, threading.Event()
    monkeypatch.setattr(service.live, "prepare", lambda v: answered.wait(60) and check(v))
    older, late = resolved(service, "one-lora", "one-lora@v1.1.0", then=answered.set)
    assert older == "one-lora@v1.0.0"
    assert (late.status, late.reason) == (503, "not_ready") and "still being verified" in str(late)


def test_a_call_that_nobody_waits_for_any_more_does_not_end_the_engine():
    from serving.step_calls import StepCalls

    calls, done = StepCalls(), []
    calls.add(lambda: done.append(1)).cancel()
    last = calls.add(lambda: done.append(2))
    calls.run()
    assert done == [2] and last.done()
