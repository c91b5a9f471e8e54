"""The answers of the model server, asked by OpenAI's own client."""

import concurrent.futures
import json

import pytest

from base_model import chat_template
from support import served_models
from support.model_servers import (
    ENDLESS,
    QUESTION,
    TOOLS,
    WEATHER,
    ask,
    texts,
)


@pytest.mark.remote_env
def test_the_models_are_the_adapters_and_their_base(server):
    import openai

    client = server.client()
    listed = client.models.list().data
    assert [model.id for model in listed] == [WEATHER, TOOLS, ENDLESS, "miniature"]
    assert client.models.retrieve("weather-lora").id == WEATHER
    for name in ("weather-lora@^1.0", "weather-lora@latest", "models/miniature"):
        assert client.models.retrieve(name).id in (WEATHER, "miniature")
    with pytest.raises(openai.NotFoundError, match="did you mean weather-lora@v1.0.0"):
        ask(server, "weater-lora")
    with pytest.raises(openai.NotFoundError):
        ask(server, "weather-lora@v9.0.0")


@pytest.mark.remote_env
def test_answers_are_those_of_the_version_loaded_by_itself(server, work):
    import torch

    from checkpoint_manager import CheckpointManager

    loaded = CheckpointManager(work / "adapters").load_checkpoint(
        WEATHER, base=work / "models" / "miniature", dtype="float32"
    )
    model, tokenizer, _ = loaded
    text = chat_template.render(tokenizer, QUESTION, prompt=True)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False
        )
    new = out[0, ids.shape[1] :]
    answer = ask(server)
    assert answer.model == WEATHER and answer.system_fingerprint.startswith("fp_")
    assert texts(answer) == [tokenizer.decode(new, skip_special_tokens=True)]
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (ids.shape[1], len(new))


@pytest.mark.remote_env
def test_a_stream_is_the_same_answer_in_pieces_with_its_usage(server):
    whole = ask(server, ENDLESS, max_tokens=30)
    chunks = list(
        ask(server, ENDLESS, max_tokens=30, stream=True, stream_options={"include_usage": True})
    )
    spoken = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(spoken) == texts(whole)[0] and len([s for s in spoken if s]) > 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@pytest.mark.remote_env
def test_both_names_of_the_limit_and_stop_strings_end_an_answer(server):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(server, ENDLESS, **{name: 7})
        assert answer.usage.completion_tokens == 7
        assert answer.choices[0].finish_reason == "length"
    answer = ask(server, ENDLESS, max_tokens=40, stop=["y on d", "never"])
    assert texts(answer)[0].endswith("da") and "y on d" not in texts(answer)[0]
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.remote_env
def test_a_seed_gives_the_same_answers_alone_and_in_a_crowd(server):
    options = {"temperature": 1.3, "top_p": 0.9, "max_tokens": 12, "n": 2, "seed": 5}
    alone = texts(ask(server, "miniature", **options))
    assert len(set(alone)) > 1
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        crowd = [pool.submit(ask, server, name, max_tokens=20) for name in (ENDLESS, TOOLS)]
        again = texts(ask(server, "miniature", **options))
        assert all(future.result().choices for future in crowd)
    assert again == alone
    assert texts(ask(server, "miniature", **(options | {"seed": 6}))) != alone


@pytest.mark.remote_env
def test_adapters_asked_at_once_give_what_they_give_alone(server):
    names = (WEATHER, TOOLS, ENDLESS, "miniature")
    alone = {name: texts(ask(server, name, max_tokens=30)) for name in names}
    assert len({tuple(answers) for answers in alone.values()}) >= 3
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            asked = {name: pool.submit(ask, server, name, max_tokens=30) for name in names}
            assert {name: texts(future.result()) for name, future in asked.items()} == alone


@pytest.fixture(scope="module")
def prompt_ids(work):
    """QUESTION as the chat template writes it, as token ids."""
    from base_model import chat_template
    from base_model import tokenizer as tokenizers

    tokenizer = tokenizers.load(work / "models" / "miniature")
    text = chat_template.render(tokenizer, QUESTION, prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.remote_env
def test_a_text_goes_on_as_the_model_itself_writes(server, prompt_ids):
    client = server.client()
    options = {"model": ENDLESS, "temperature": 0, "max_tokens": 12}
    whole = client.completions.create(prompt=prompt_ids, **options)
    assert whole.object == "text_completion" and whole.id.startswith("cmpl-")
    chat = ask(server, ENDLESS, max_tokens=12)
    assert whole.choices[0].text == texts(chat)[0] and whole.usage == chat.usage
    assert whole.choices[0].finish_reason == "length"
    chunks = list(client.completions.create(prompt=prompt_ids, stream=True, **options))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    many = client.completions.create(prompt=[prompt_ids, prompt_ids[:3]], n=2, **options)
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == many.choices[1].text == whole.choices[0].text
    assert many.choices[2].text == many.choices[3].text
    words = client.completions.create(prompt=["It is", "It"], **options)
    assert len(words.choices) == 2 and words.usage.prompt_tokens > 2


@pytest.mark.remote_env
def test_logprobs_are_those_of_the_chosen_tokens(server, prompt_ids):
    import openai

    options = {"temperature": 0, "max_tokens": 8}
    whole = ask(server, ENDLESS, logprobs=True, top_logprobs=3, **options)
    listed = whole.choices[0].logprobs.content
    assert len(listed) == 8 and "".join(t.token for t in listed) == texts(whole)[0]
    for token in listed:
        assert token.top_logprobs[0].token == token.token, "greedy: the likeliest one"
        assert token.logprob == token.top_logprobs[0].logprob <= 0 and len(token.top_logprobs) == 3
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    chunks = list(ask(server, ENDLESS, logprobs=True, stream=True, **options))
    streamed = [t for c in chunks for choice in c.choices if choice.logprobs
                for t in choice.logprobs.content]  # fmt: skip
    assert [(t.token, t.logprob) for t in streamed] == [(t.token, t.logprob) for t in listed]
    assert ask(server, ENDLESS, **options).choices[0].logprobs is None
    client = server.client()
    text = client.completions.create(model=ENDLESS, prompt=prompt_ids, logprobs=2, **options)
    chances = text.choices[0].logprobs
    assert "".join(chances.tokens) == text.choices[0].text
    assert chances.text_offset == [len("".join(chances.tokens[:i])) for i in range(8)]
    assert all(len(top) <= 2 and max(top.values()) == chances.token_logprobs[i]
               for i, top in enumerate(chances.top_logprobs))  # fmt: skip
    with pytest.raises(openai.BadRequestError, match="embedding|knows"):
        client.completions.create(model=ENDLESS, prompt=[10**6], **options)
    with pytest.raises(openai.BadRequestError, match="at most 16"):
        client.completions.create(model=ENDLESS, prompt=["a"] * 9, n=2, **options)


@pytest.mark.remote_env
def test_tool_calls_come_back_as_tool_calls_and_go_in_again(server):
    tools = [served_models.TOOL]
    message = ask(server, TOOLS, tools=tools).choices[0].message
    call = message.tool_calls[0]
    assert call.function.name == "get_weather" and message.content is None
    assert json.loads(call.function.arguments) == {"when": "today"}
    turns = [*QUESTION, message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert ask(server, TOOLS, messages=turns, tools=tools, max_tokens=5).choices
    streamed = [c.choices[0] for c in ask(server, TOOLS, tools=tools, stream=True)]
    calls = [call for c in streamed for call in c.delta.tool_calls or ()]
    assert [c.function.arguments for c in calls] == ['{"when": "today"}']
    assert streamed[-1].finish_reason == "tool_calls"
    assert not any(c.delta.content for c in streamed)
    plain = ask(server, TOOLS, tools=tools, tool_choice="none").choices[0]
    assert not plain.message.tool_calls
