"""scripts/evaluation/generate.py: batches, memory, the tokens that bear the loss."""

import pytest

from evaluation import generate
from kit import console

pytestmark = pytest.mark.remote_env


def test_results_come_in_the_items_order_and_long_items_go_first():
    batches = []

    def work(part):
        batches.append(part)
        return [len(item) for item in part]

    counted = []
    results = generate._in_batches(["a", "bbbb", "cc", "ddd"], len, work, 2, counted.append)
    assert results == [1, 4, 2, 3]
    assert batches == [["bbbb", "ddd"], ["cc", "a"]]
    assert counted == [2, 2]


def test_out_of_memory_halves_the_batch_and_loses_no_row(capsys):
    import torch

    sizes = []

    def work(part):
        sizes.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError
        return part

    items = [str(n) for n in range(10)]
    assert generate._in_batches(items, len, work, 8, lambda n: None) == items
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    assert "going on with batches of 2" in capsys.readouterr().err


def test_one_row_that_does_not_fit_ends_with_what_to_lower():
    import torch

    def work(part):
        raise torch.OutOfMemoryError

    with pytest.raises(console.Problem, match="one row of 3 tokens; lower data.max_length"):
        generate._in_batches(["abc"], len, work, 1, lambda n: None)


def test_padding_is_on_the_side_asked_for_and_masked():
    values, mask = generate._pad([[1, 2, 3], [4]], 9, "cpu", left=True)
    assert values.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    values, mask = generate._pad([[1, 2, 3], [4]], 9, "cpu")
    assert values.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("family", ["llama", "mistral", "mamba"])
def test_batched_answers_and_losses_equal_single_ones_in_every_family(family):
    """An untrained model of each architecture: left padding must not change a token."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    from base_model import miniature
    from evaluation import example_rows
    from support import tiny

    set_seed(3)
    texts = [m["content"] for row in tiny.rows(40) for m in row["messages"]]
    tokenizer = miniature.build_tokenizer(texts, family)
    config = miniature.build_config(family, tokenizer)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    torch.set_num_threads(1)
    examples = []
    for number, row in enumerate(tiny.rows(6), 1):
        user, answer = row["messages"]
        user["content"] *= number  # prompts of six lengths
        examples.append(example_rows.Example(number, [user], answer, [answer["content"]]))
    prompts = generate.prompts(tokenizer, examples)
    coded = generate.encode_losses(tokenizer, examples, 512)
    answers = [generate.answers(model, tokenizer, prompts, size, 8) for size in (1, 6)]
    assert answers[0] == answers[1]
    losses = [generate.losses(model, tokenizer, coded, size) for size in (1, 6)]
    assert losses[0]["loss_tokens"] == losses[1]["loss_tokens"]
    assert losses[0]["loss_total"] == pytest.approx(losses[1]["loss_total"], rel=1e-5)


def test_a_row_that_the_template_refuses_is_named_with_file_and_line():
    from base_model import miniature
    from evaluation import example_rows

    tokenizer = miniature.build_tokenizer(["some text"], "mistral")
    call = {"id": "short", "function": {"name": "f", "arguments": {}}}
    turns = [{"role": "user", "content": "x"}]
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    example = example_rows.Example(3, turns, answer, [], where="val.jsonl:3")
    with pytest.raises(console.Problem, match="val.jsonl:3: the chat template refuses.*length 9"):
        generate.fill_references(tokenizer, [example])
    with pytest.raises(console.Problem, match="val.jsonl:3: .*--no-loss"):
        generate.encode_losses(tokenizer, [example], 512)
    good = example_rows.Example(1, turns, {"role": "assistant", "content": "y"}, ["y"])
    with pytest.raises(console.Problem, match="val.jsonl:3: .*it refuses 2 of 3 rows; "):
        generate.encode_losses(tokenizer, [good, example, example], 512)


def test_a_row_that_is_trained_turn_by_turn_has_the_loss_of_all_its_turns():
    """Mistral v0.3 writes the tools before the last question: earlier turns change."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    from base_model import miniature
    from evaluation import example_rows
    from support import tiny

    set_seed(3)
    tokenizer = miniature.build_tokenizer(["One? First. Two? Second."], "mistral")
    tokenizer.chat_template = tiny.LATE_TOOLS_TEMPLATE
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    first = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "First."}]
    second = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Second."}]
    examples = [
        example_rows.Example(1, [*first, second[0]], second[1], ["Second."], tools),
        example_rows.Example(2, first[:1], first[1], ["First."], tools),
    ]
    coded = generate.encode_losses(tokenizer, examples, 512)
    assert [len(row) for row in coded] == [2, 1]
    config = miniature.build_config("mistral", tokenizer)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    torch.set_num_threads(1)
    both = generate.losses(model, tokenizer, coded, 2)
    alone = generate.losses(model, tokenizer, [[sample] for sample in coded[0]], 1)
    assert both["loss_tokens"][0] == sum(alone["loss_tokens"])
    assert both["loss_total"][0] == pytest.approx(sum(alone["loss_total"]), rel=1e-5)
    assert both["loss_total"][1] == pytest.approx(
        alone["loss_total"][0], rel=1e-5
    )  # the same first turn
