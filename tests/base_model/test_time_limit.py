"""Work that a chat template steers ends in time, in whichever thread it runs."""

from __future__ import annotations

import os
import threading

import pytest

from base_model import chat_template, time_limit
from base_model.time_limit import TookTooLong
from kit import console


class Endless:
    """A tokenizer whose template never ends, and catches what it can."""

    chat_template = "{% for … %}"

    def apply_chat_template(self, *args, **options) -> str:
        while True:
            try:
                self.work()
            except Exception:
                continue

    def work(self) -> None:
        sum(range(100))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", 0)
    monkeypatch.setattr(time_limit, "PAUSE", 0.01)


@pytest.mark.slow
def test_a_template_without_an_end_is_one_line_in_any_thread_and_again():
    problems: list[str] = []

    def render() -> None:
        with pytest.raises(console.Problem) as problem:
            chat_template.render(Endless(), [])
        problems.append(problem.value.text)

    threads = [threading.Thread(target=render) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    render()
    assert problems == ["the chat template does not come to an end within 0 s"] * 4


@pytest.mark.slow
def test_the_limit_holds_in_a_forked_process_too():
    with pytest.raises(console.Problem):
        chat_template.render(Endless(), [])
    child = os.fork()
    if child == 0:
        try:
            chat_template.render(Endless(), [])
        except console.Problem:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_what_ends_in_time_is_left_alone_and_what_fails_fails_as_it_does():
    with time_limit.time_limit(60):
        pass
    with pytest.raises(ValueError, match="mine"), time_limit.time_limit(60):
        raise ValueError("mine")
    assert threading.get_ident() not in time_limit._watch.ends
    assert not issubclass(TookTooLong, Exception)


def test_a_template_that_writes_without_measure_is_one_line(monkeypatch):
    monkeypatch.setattr(chat_template, "MOST_LETTERS", 10)
    monkeypatch.setattr(chat_template, "SECONDS", 60)

    class Long:
        def apply_chat_template(self, *args, **options) -> str:
            return "x" * 11

    with pytest.raises(console.Problem, match="writes 11 letters"):
        chat_template.render(Long(), [])
