"""What one answer's numbers or one broken step do to the others: nothing."""

import random

import pytest

from support.engine_desk import Desk, lora_model, tokens_alone
from support.processes import wait_until

pytestmark = pytest.mark.remote_env
TINY = [5e-324, 1e-300, 1e-46, 1.2e-38, 1e-30]


@pytest.fixture(scope="module")
def llama():
    return lora_model("llama")


class Row:
    """What sampling.pick asks of an answer."""

    guide = None

    def __init__(self, temperature=1.0, top_p=1.0, vocabulary=8):
        self.temperature, self.top_p, self.vocabulary = temperature, top_p, vocabulary
        self.dice = random.Random(1)


@pytest.mark.parametrize("top_p", [*TINY, 1.0])
@pytest.mark.parametrize("temperature", [*TINY, 2.0])
def test_no_number_is_too_small_to_draw_a_token(temperature, top_p):
    import torch

    from serving import sampling

    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [1e30, -1e30, 0.0, 1e29]])
    drawn = sampling.pick(logits, [Row(temperature, top_p, 4), Row(temperature, top_p, 4)])
    assert all(token in range(4) for token in drawn)
    if temperature < 1 or top_p < 1:
        assert drawn == [1, 0], "the likeliest token is always kept"


def test_a_row_of_nan_gets_no_token_and_the_others_theirs():
    import torch

    from serving import sampling

    logits = torch.zeros(4, 8)
    logits[:, 5] = 9.0
    logits[0, 2] = float("nan")
    logits[1, 2] = float("inf")
    rows = [Row(0), Row(0.7, 0.5), Row(0), Row(0, vocabulary=0)]
    assert sampling.pick(logits, rows) == [None, None, 5, None]


def test_an_answer_with_tiny_numbers_ends_nobody_elses(llama):
    desk = Desk(*llama)
    prompts = [[11 + i, 12] for i in range(6)]
    innocent = [desk.answer(p, temperature=1.5, seed=1, tokens=20) for p in prompts]
    hostile = [desk.answer([11], temperature=t, top_p=t, tokens=5) for t in TINY]
    desk.engine.submit([*innocent, *hostile])
    ends = desk.finish([*innocent, *hostile])
    assert set(ends.values()) == {"length"}
    desk.engine.close()


def break_decoding(model, layer=1):
    """Make one layer of the model raise; returns what repairs it."""

    def raise_(module, args):
        raise RuntimeError("CUDA error: an illegal step")

    return model.get_base_model().model.layers[layer].register_forward_pre_hook(raise_).remove


@pytest.mark.parametrize("grouped", [True, False], ids=["groups", "hooks"])
def test_a_broken_step_of_several_adapters_leaves_nothing_and_ends_nobody(grouped, monkeypatch):
    """PEFT keeps the rows' adapters in hooks when a mixed pass raises: later rows got them."""
    from serving import forward

    if not grouped:
        monkeypatch.setattr(forward.GroupedLora, "install", lambda model: None)
    tokenizer, model = lora_model("llama")
    desk = Desk(tokenizer, model, start=False)
    running = [desk.answer([11, 12], name, 40) for name in ("a0", "a1", "a0", "a1")]
    steps, repairs = [], []
    logits = desk.engine.forward.logits

    def once_broken(batch, ids, first):
        steps.append(len(batch.answers))
        if len(batch.answers) == 4 and not first and not repairs:
            repairs.append(break_decoding(model))
        try:
            return logits(batch, ids, first)
        finally:
            if repairs:
                repairs[0]()

    desk.engine.forward.logits = once_broken
    desk.engine.start()
    desk.engine.submit(running)
    assert set(desk.finish(running).values()) == {"length"}
    assert steps[:3] == [4, 4, 1] and repairs, "each row is read again alone"
    for name in ("a0", "a1"):  # both adapters, alone and together, as if nothing had happened
        alone = desk.answer([21, 22], name, 8)
        desk.engine.submit([alone])
        desk.finish([alone])
        assert alone.tokens == tokens_alone(model, alone)
    for answer in running:
        assert answer.tokens == tokens_alone(model, answer)
    assert not [m for m in model.modules() if m._forward_pre_hooks]
    assert desk.engine.healthy
    desk.engine.close()


def test_a_failed_prompt_ends_its_own_answer_alone(llama, monkeypatch):
    """Two join at once, one of them cannot be read: the other, and those that run, continue."""
    desk = Desk(*llama)
    logits = desk.engine.forward.logits

    def broken(batch, ids, first):
        if any(answer.prompt == [99, 99] for answer in batch.answers):
            raise RuntimeError("index out of range")
        return logits(batch, ids, first)

    monkeypatch.setattr(desk.engine.forward, "logits", broken)
    running = desk.answer([11], tokens=200)
    desk.engine.submit([running])
    wait_until(lambda: len(running.tokens) > 3)
    bad, good = desk.answer([99, 99]), desk.answer([12], tokens=5)
    desk.engine.submit([bad, good])
    assert desk.finish([bad, good, running]) == {bad: "error", good: "length", running: "length"}
    assert desk.text[bad] == "index out of range"
    desk.engine.close()


def test_hostile_answers_do_not_make_the_server_ill(llama, monkeypatch):
    from types import SimpleNamespace

    tokenizer, model = llama
    desk = Desk(tokenizer, model, start=False)
    served = SimpleNamespace(adapter="a0", tokenizer=tokenizer, ends=frozenset({1}),
                             vocabulary=len(tokenizer))  # fmt: skip
    desk.engine.warm_up([served])
    logits = desk.engine.forward.logits
    broken = [99]

    def fails(batch, ids, first):
        if any(answer.prompt[:1] == broken or not broken for answer in batch.answers):
            raise RuntimeError("no such token")
        return logits(batch, ids, first)

    monkeypatch.setattr(desk.engine.forward, "logits", fails)
    desk.engine.start()
    for _ in range(4):
        desk.engine.submit([bad := desk.answer([99])])
        assert desk.finish([bad]) == {bad: "error"}
    wait_until(lambda: desk.engine.healthy)
    broken.clear()  # now the model itself fails
    for _ in range(3):
        desk.engine.submit([bad := desk.answer([11])])
        assert desk.finish([bad]) == {bad: "error"}
    wait_until(lambda: not desk.engine.healthy)
    desk.engine.close()


def test_text_that_cannot_be_decoded_ends_its_own_answer(llama, monkeypatch):
    desk = Desk(*llama)
    bad, good = desk.answer([11], tokens=9), desk.answer([12], tokens=9)

    def raise_(token):
        raise ValueError("invalid prefix")

    monkeypatch.setattr(bad.text, "add", raise_)
    desk.engine.submit([bad, good])
    assert desk.finish([bad, good]) == {bad: "error", good: "length"}
    desk.engine.close()


@pytest.mark.parametrize("family", ["llama", "mistral", "mamba"])
def test_a_long_prompt_is_read_in_pieces_with_the_same_answer(family, monkeypatch):
    from serving import forward

    tokenizer, model = lora_model(family)
    dice = random.Random(5)
    prompts = [[dice.randrange(10, len(tokenizer)) for _ in range(n)] for n in (70, 31, 5)]
    given = []
    for piece in (10**6, 16):
        monkeypatch.setattr(forward, "PIECE", piece)
        desk = Desk(tokenizer, model, start=False)
        rows = [
            desk.answer(p, name, 12) for p, name in zip(prompts, ("a0", "a1", "a0"), strict=True)
        ]
        desk.engine.submit(rows)
        desk.engine.start()
        desk.finish(rows)
        desk.engine.close()
        given.append([row.tokens for row in rows])
        assert family == "mamba" or (desk.engine.steps > 13) == (piece == 16)
    assert given[0] == given[1]


def test_rows_are_sorted_into_one_group_for_each_adapter(llama, monkeypatch):
    from serving import grouped_lora

    tokenizer, model = llama
    desk = Desk(tokenizer, model, start=False)
    seen = []
    groups = grouped_lora.groups

    def noted(names):
        seen.append(groups(names))
        return seen[-1]

    monkeypatch.setattr(grouped_lora, "groups", noted)
    names = ["a1", "a0", "__base__", "a1", "a0", "__base__", "a1"]
    size = model.config.vocab_size  # padding too, as generate() has it
    rows = [desk.answer([11 + i], name, 6 + i, vocabulary=size) for i, name in enumerate(names)]
    desk.engine.submit(rows[:4])
    desk.engine.start()
    desk.engine.submit(rows[4:])
    desk.finish(rows)
    desk.engine.close()
    assert seen and all(len(batch) == len({name for name, _ in batch}) for batch in seen)
    for row in rows:
        assert row.tokens == tokens_alone(model, row)


def test_adapters_of_other_kinds_take_pefts_own_way():
    from serving.grouped_lora import GroupedLora

    assert GroupedLora.install(lora_model("llama", use_dora=True)[1]) is None
    assert GroupedLora.install(lora_model("llama", modules_to_save=["lm_head"])[1]) is None
