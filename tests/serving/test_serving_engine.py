"""Continuous batching: what rows get does not depend on who joins or leaves beside them."""

import random
import time

import pytest

from support.engine_desk import PATIENCE, Desk, lora_model, tokens_alone
from support.processes import wait_until

pytestmark = pytest.mark.remote_env


@pytest.fixture(scope="module")
def llama():
    return lora_model("llama")


def jobs(tokenizer, count=24):
    """Answers of several adapters, lengths, temperatures, as keyword arguments."""
    from serving.engine import BASE

    dice = random.Random(7)
    for i in range(count):
        prompt = [dice.randrange(10, len(tokenizer)) for _ in range(dice.randrange(1, 30))]
        yield {
            "prompt": prompt, "adapter": dice.choice(["a0", "a1", BASE]), "seed": i,
            "tokens": dice.randrange(1, 24), "temperature": dice.choice([0, 0, 0.8, 1.5]),
            "top_p": dice.choice([1.0, 0.7]), "live": i % 2 == 0,
        }  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "mistral", "mamba"])
def test_an_answer_is_the_same_alone_and_among_others_that_join_and_leave(family):
    tokenizer, model = lora_model(family)
    desk = Desk(tokenizer, model)
    alone = []
    for job in jobs(tokenizer):
        answer = desk.answer(**job)
        desk.engine.submit([answer])
        desk.finish([answer])
        alone.append(answer)
    together = [desk.answer(**job) for job in jobs(tokenizer)]
    before = desk.engine.steps
    for answer in together:
        desk.engine.submit([answer])
    desk.finish(together)
    desk.engine.close()
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert max(desk.seen) > 1 and desk.engine.steps - before < before  # they did share steps
    for answer in together:
        assert desk.text[answer] == tokenizer.decode(answer.tokens, skip_special_tokens=True)


def test_greedy_answers_are_those_of_transformers_generate(llama):

    tokenizer, model = llama
    desk = Desk(tokenizer, model)
    greedy = {"temperature": 0, "vocabulary": model.config.vocab_size}  # padding too, as there
    answers = [desk.answer(**(job | greedy)) for job in jobs(tokenizer)]
    desk.engine.submit(answers)
    desk.finish(answers)
    desk.engine.close()
    for answer in answers:
        assert answer.tokens == tokens_alone(model, answer)


def test_a_base_in_four_bits_serves_several_adapters_in_one_batch(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from base_model import loading
    from serving.engine import BASE
    from support import tiny

    loading.quiet()
    tokenizer, plain = lora_model("llama")
    plain.unload().save_pretrained(tmp_path)
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantised, dtype=torch.float32
    )
    targets = tiny.LINEAR["llama"]
    config = LoraConfig(r=8, target_modules=targets, init_lora_weights=False)
    model = get_peft_model(model, config, adapter_name="a0")
    model.add_adapter("a1", config)
    desk = Desk(tokenizer, model.eval())
    answers = [desk.answer([11, 12, 13], name, 8) for name in ("a0", "a1", BASE, "a0")]
    desk.engine.submit(answers)
    assert set(desk.finish(answers).values()) == {"length"}
    desk.engine.close()
    assert answers[0].tokens == answers[3].tokens
    assert len({tuple(a.tokens) for a in answers}) == 3


def test_a_full_queue_refuses_and_what_is_in_it_is_answered(llama):
    from serving.engine import EngineFull

    desk = Desk(*llama, start=False, rows=1, wait=2)
    answers = [desk.answer([11], tokens=3) for _ in range(2)]
    desk.engine.submit(answers)
    with pytest.raises(EngineFull) as refused:
        desk.engine.submit([desk.answer([11])])
    assert refused.value.full
    desk.engine.start()
    assert set(desk.finish(answers).values()) == {"length"}
    desk.engine.close()
    with pytest.raises(EngineFull) as refused:
        desk.engine.submit([desk.answer([11])])
    assert not refused.value.full


def test_cancelled_answers_leave_the_batch_and_the_queue(llama):
    desk = Desk(*llama, rows=1)
    running, waiting = desk.answer([11], tokens=10**6), desk.answer([12], tokens=5)
    last = desk.answer([13], tokens=2)
    desk.engine.submit([running, waiting, last])
    wait_until(lambda: len(running.tokens) > 3)
    desk.engine.cancel([running, waiting])
    assert desk.finish([last]) == {last: "length"}
    desk.engine.close()
    assert not waiting.tokens and len(running.tokens) < 10**4
    assert desk.ends.empty()


def test_an_answer_that_runs_or_waits_too_long_ends(llama):
    desk = Desk(*llama, rows=1)
    running = desk.answer([11], tokens=10**6)
    desk.engine.submit([running])
    wait_until(lambda: len(running.tokens) > 3)
    waiting = desk.answer([12], deadline=time.monotonic() - 1)
    desk.engine.submit([waiting])
    assert desk.finish([waiting]) == {waiting: "timeout"}
    assert not waiting.tokens
    running.deadline = 0
    assert desk.finish([running]) == {running: "timeout"}
    desk.engine.close()


def test_the_cache_never_holds_more_than_it_may(llama):
    desk = Desk(*llama, rows=8, cells=60)
    answers = [desk.answer([11] * 10, tokens=10) for _ in range(9)]  # 20 cells each
    desk.engine.submit(answers)
    assert set(desk.finish(answers).values()) == {"length"}
    desk.engine.close()
    assert max(desk.seen) == 3


EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["mlp.down_proj.weight"]}


@pytest.mark.parametrize("lora", [{"modules_to_save": ["norm", "lm_head"]}, EXPERTS])
def test_in_turns_every_kind_of_adapter_and_the_base_answer_as_alone(lora):
    """PEFT takes no names of rows for such layers, not even of the base."""
    from serving.engine import BASE

    tokenizer, model = lora_model("llama", **lora)
    names = ["a0", BASE, "a1", "a0", BASE, "a1"]
    desk = Desk(tokenizer, model, mixed=False)
    alone = []
    for name in names[:3]:
        alone.append(desk.answer([11, 12, 13], name))
        desk.engine.submit([alone[-1]])
        desk.finish(alone[-1:])
    together = [desk.answer([11, 12, 13], name) for name in names]
    for answer in together:
        desk.engine.submit([answer])
    assert set(desk.finish(together).values()) == {"length"}
    desk.engine.close()
    assert [a.tokens for a in together] == [a.tokens for a in alone] * 2
    assert len({tuple(a.tokens) for a in alone}) == 3


def test_adapters_that_cannot_be_mixed_take_turns():
    tokenizer, model = lora_model("llama", use_dora=True)
    desk = Desk(tokenizer, model, mixed=False)
    answers = [desk.answer([11, 12], name) for name in ("a0", "a0", "a1", "a0")]
    desk.engine.submit(answers)
    assert set(desk.finish(answers).values()) == {"length"}
    desk.engine.close()
    assert max(desk.seen) == 2
    assert answers[0].tokens == answers[3].tokens != answers[2].tokens


def test_a_step_that_fails_ends_its_answers_and_the_next_ones_work(llama, monkeypatch):
    tokenizer, model = llama
    desk = Desk(tokenizer, model)
    logits = desk.engine.forward.logits

    def broken(batch, ids, first):
        if any(answer.prompt == [99] for answer in batch.answers):
            raise RuntimeError("the matrix is singular\nand more")
        return logits(batch, ids, first)

    monkeypatch.setattr(desk.engine.forward, "logits", broken)
    bad, good = desk.answer([99]), desk.answer([11])
    desk.engine.submit([bad])
    assert desk.finish([bad]) == {bad: "error"} and desk.text[bad] == "the matrix is singular"
    desk.engine.submit([good])
    assert desk.finish([good]) == {good: "length"} and desk.engine.healthy
    for _ in range(3):
        desk.engine.submit([desk.answer([99])])
        desk.ends.get(timeout=PATIENCE)
    wait_until(lambda: not desk.engine.healthy)
    desk.engine.submit([again := desk.answer([11])])
    assert desk.finish([again]) == {again: "length"}
    wait_until(lambda: desk.engine.healthy)
    desk.engine.close()


def test_stopping_ends_what_runs_and_waits(llama):
    desk = Desk(*llama, rows=1)
    answers = [desk.answer([11], tokens=10**6) for _ in range(3)]
    desk.engine.submit(answers)
    wait_until(lambda: answers[0].tokens)
    desk.engine.close()
    assert set(desk.finish(answers).values()) == {"stopped"}


def test_padding_of_the_vocabulary_is_never_chosen():
    import torch

    from serving import sampling

    class Row:
        guide = None
        vocabulary, temperature, top_p, dice = 5, 1.0, 1.0, random.Random(1)

    greedy = type("Greedy", (Row,), {"temperature": 0})
    logits = torch.zeros(2, 8)
    logits[:, 6] = 50.0
    for _ in range(50):
        assert all(token < 5 for token in sampling.pick(logits, [Row(), greedy()]))


def test_sampling_follows_the_probabilities_and_top_p_cuts_the_tail():
    import torch

    from serving import sampling

    class Row:
        guide = None
        vocabulary, temperature = 4, 1.0

        def __init__(self, top_p, seed):
            self.top_p, self.dice = top_p, random.Random(seed)

    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = [Row(1.0, i) for i in range(4000)] + [Row(0.75, i) for i in range(4000)]
    drawn = sampling.pick(chances.log().repeat(8000, 1), rows)
    whole = [drawn[:4000].count(i) / 4000 for i in range(4)]
    assert whole == pytest.approx(chances.tolist(), abs=0.03)
    cut = [drawn[4000:].count(i) / 4000 for i in range(4)]
    assert cut == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
