"""Versions that come into the store while a server runs: resolved, verified, loaded, refused."""

import shutil

import pytest

from support import adapter_runs, served_models
from support.model_servers import RunningServer, ask, texts

# --- what a name means ----------------------------------------------------------------------------


def meant(live, name):
    return [version.version for version in live.candidates(name)]


CASES = [  # --checkpoint, name of a request, what it means once v1.0.1, v1.1.0, v2.0.0 are there
    ("one-lora", "one-lora", "v2.0.0"),
    ("one-lora", "one-lora@latest", "v2.0.0"),
    ("one-lora", "one-lora@^1.0", "v1.1.0"),
    ("one-lora", "one-lora@~1.0", "v1.0.1"),
    ("one-lora", "one-lora@>=1,<2", "v1.1.0"),
    ("one-lora", "one-lora@v1.0.1", "v1.0.1"),
    ("one-lora", "one-lora@1.1.0", "v1.1.0"),
    ("one-lora@^1.0", "one-lora", "v1.1.0"),
    ("one-lora@^1.0", "one-lora@latest", "v1.1.0"),
    ("one-lora@^1.0", "one-lora@v2.0.0", "v2.0.0"),
    ("one-lora@v1.0.0", "one-lora", "v1.0.0"),
    ("one-lora@v1.0.0", "one-lora@^1.0", "v1.0.0"),
    ("one-lora@v1.0.0", "one-lora@v1.1.0", "v1.1.0"),
    ("one-lora", "one-lora@v9.0.0", None),
    ("one-lora", "one-lora@!!", None),
    ("one-lora", "other-lora", None),
    ("one-lora", "tiny", None),
    ("one-lora", "../one-lora", None),
]


@pytest.mark.parametrize(("started", "name", "expected"), CASES)
def test_a_name_means_the_highest_version_that_is_there_now_and_allowed(
    store, started, name, expected
):
    live = store.live(started)
    for bump in ("patch", "minor", "major"):
        store.more(bump)
    assert (meant(live, name) or [None])[-1] == expected


def test_a_retired_version_is_meant_by_its_own_name_alone(store):
    from adapters import retire

    live = store.live("one-lora")
    newer = store.more("minor")
    assert meant(live, "one-lora")[-1] == "v1.1.0"
    retire.retire(newer, "answers in the wrong language")
    assert meant(live, "one-lora") == ["v1.0.0"] and meant(live, "one-lora@v1.1.0") == ["v1.1.0"]


def test_a_folder_that_did_not_change_is_not_listed_again(store, monkeypatch):
    import os

    from serving import live_versions

    live = store.live("one-lora")
    os.utime(store.folder, (1, 1))
    assert meant(live, "one-lora") == ["v1.0.0"]
    monkeypatch.setattr(live_versions.version_store, "versions", None)
    assert meant(live, "one-lora") == ["v1.0.0"]
    shutil.rmtree(store.folder)
    assert meant(live, "one-lora") == []


def spoil(version, file="adapter_model.safetensors"):
    target = version.folder / file
    target.chmod(0o644)
    raw = bytearray(target.read_bytes())
    raw[-3] ^= 1
    target.write_bytes(raw)


def test_what_is_damaged_is_refused_with_its_file_and_looked_at_again_when_that_changed(
    store, monkeypatch
):
    from kit import console
    from serving import model_catalog

    live, newer = store.live("one-lora"), store.more("minor")
    sound = (newer.folder / "adapter_model.safetensors").read_bytes()
    spoil(newer)
    with pytest.raises(console.Problem, match="one-lora@v1.1.0 cannot be served: adapter_model"):
        live.prepare(newer)
    with monkeypatch.context() as patch:
        patch.setattr(model_catalog, "verified", None)  # nothing is hashed twice
        with pytest.raises(console.Problem, match="adapter_model"):
            live.prepare(newer)
    (newer.folder / "adapter_model.safetensors").write_bytes(sound)
    assert live.prepare(newer).id == "one-lora@v1.1.0"


def test_what_does_not_go_with_the_running_server_is_refused_with_a_remedy(store, monkeypatch):
    from kit import console
    from serving import live_versions

    live = store.live("one-lora")
    with pytest.raises(console.Problem, match="served beside others.*serve it alone"):
        live.prepare(store.more("minor", bias="all"))
    dora = adapter_runs.tensors()
    for name in [n for n in dora if n.endswith("lora_A.weight")]:
        dora[name.replace("lora_A.weight", "lora_magnitude_vector")] = dora[name][0] ** 2
    with pytest.raises(console.Problem, match="takes turns.*restart the server"):
        live.prepare(store.more("minor", tensors=dora, use_dora=True))
    monkeypatch.setattr(live_versions, "MOST_ADDED", 0)
    with pytest.raises(console.Problem, match="0 versions were loaded.*restart"):
        live.prepare(store.more("minor"))


# --- a server -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(work, tmp_path_factory):
    """A store of its own, with weather-lora and tool-lora in v1.0.0."""
    folder = tmp_path_factory.mktemp("live")
    for part in ("models", "adapters", "peft"):
        shutil.copytree(work / part, folder / part)
    return folder


def publish(place, monkeypatch, source, name, bump):
    from checkpoint_manager import CheckpointManager

    monkeypatch.setenv("TANDEM_WORKDIR", str(place))
    return CheckpointManager(place / "adapters").register(place / "peft" / source, name, bump=bump)


@pytest.mark.remote_env
@pytest.mark.slow
def test_a_running_server_takes_new_versions_and_refuses_damaged_ones(place, monkeypatch):
    """v1.1.0 calls tools where v1.0.0 answers: whose answer it is can be seen."""
    import openai

    tools = {"tools": [served_models.TOOL], "max_tokens": 40}
    with RunningServer(place, checkpoints=("weather-lora",)) as server:
        old = texts(ask(server, "weather-lora", max_tokens=8))
        publish(place, monkeypatch, "tool-lora", "weather-lora", "minor")
        newer = ask(server, "weather-lora@v1.1.0", **tools)
        assert newer.model == "weather-lora@v1.1.0" and newer.choices[0].message.tool_calls
        assert ask(server, "weather-lora", **tools).model == "weather-lora@v1.1.0"
        assert ask(server, "weather-lora@~1.0", **tools).model == "weather-lora@v1.0.0"
        assert texts(ask(server, "weather-lora@v1.0.0", max_tokens=8)) == old
        listed = [model.id for model in server.client().models.list()]
        assert listed == ["weather-lora@v1.0.0", "weather-lora@v1.1.0", "miniature"]

        bad = publish(place, monkeypatch, "weather-lora", "weather-lora", "minor")
        spoil(bad)
        with pytest.raises(openai.NotFoundError) as refused:
            ask(server, "weather-lora@v1.2.0")
        assert refused.value.code == "version_refused"
        assert "weather-lora@v1.2.0 cannot be served: adapter_model.safetensors" in str(
            refused.value
        )
        assert ask(server, "weather-lora", **tools).model == "weather-lora@v1.1.0"
        server.process.terminate()
        _, err = server.process.communicate(timeout=60)
        assert server.process.returncode == 0 and "Traceback" not in err
        assert err.count("weather-lora@v1.2.0 cannot be served") == 1
        assert "weather-lora@v1.1.0 was loaded" in err


@pytest.mark.remote_env
@pytest.mark.slow
def test_an_adapter_of_more_layers_joins_and_the_others_answer_as_before(place, monkeypatch):
    """The server begins with q_proj alone; the new version brings layers that had no adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = place / "models" / "miniature"
    for name, targets in (("few", ["q_proj"]), ("more", ["q_proj", "up_proj"])):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets,
                                                 task_type="CAUSAL_LM"))  # fmt: skip
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
            torch.nn.init.normal_(parameter, std=0.05)
        model.save_pretrained(place / "peft" / name)
        for file in (*base.glob("tokenizer*"), base / "chat_template.jinja"):
            shutil.copy(file, place / "peft" / name)
    publish(place, monkeypatch, "few", "few-lora", None)
    with RunningServer(place, checkpoints=("few-lora", "tool-lora")) as server:
        before = [texts(ask(server, name, max_tokens=12)) for name in ("few-lora", "miniature")]
        publish(place, monkeypatch, "more", "few-lora", "minor")
        grown = texts(ask(server, "few-lora@v1.1.0", max_tokens=12))
        names = ("few-lora@v1.0.0", "miniature")
        assert [texts(ask(server, name, max_tokens=12)) for name in names] == before
    with RunningServer(place, checkpoints=("few-lora@v1.1.0",)) as fresh:
        assert texts(ask(fresh, "few-lora", max_tokens=12)) == grown, "as after a restart"
