"""Which versions are served under which names, and how their base is loaded."""

import json

import pytest

from support import adapter_runs


@pytest.fixture
def check(tmp_path, monkeypatch):
    """check({name: changes of its adapter_config}, options) -> Catalog."""
    from adapters import register
    from serving import model_catalog

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))

    def build(adapters, tensors=None, quantization=None, **options):
        versions = []
        for name, changes in adapters.items():
            run = adapter_runs.run(tmp_path, name, tensors, **changes)
            config = {"quantization": quantization or {}}
            (run / "config.yaml").write_text(json.dumps(config))
            versions.append(register.register(tmp_path / "adapters", name, name))
        return model_catalog.check(versions, None, model_catalog.BaseOptions(**options))

    return build


def test_adapters_and_base_have_names_and_short_names(check):
    from serving.api_errors import ApiError
    from serving.service import Service

    catalog = check({"one": {}, "two": {}})
    assert [(s.id, s.parent) for s in catalog.served] == [
        ("one@v1.0.0", "tiny"), ("two@v1.0.0", "tiny"), ("tiny", None)
    ]  # fmt: skip
    for name, meant in {
        "one": 0,
        "two@^1.0": 1,
        "two@v1.0.0": 1,
        "tiny": 2,
        "models/tiny": 2,
    }.items():
        assert catalog.find(name) is catalog.served[meant]
    for name in ("one@v2.0.0", "three", "", "tin", "one@!!", "ONE", "x" * 10_000):
        assert catalog.find(name) is None
    assert "did you mean one@v1.0.0?" in catalog.nearest("one@v1.0.1")
    with pytest.raises(ApiError) as refused:
        Service(catalog).find("one@" + "1." * 400_000)
    assert len(str(refused.value)) < 500 and "one@1.1." in str(refused.value)
    assert len({s.fingerprint for s in catalog.served}) == 3


def test_one_name_may_be_served_in_several_versions(check):
    catalog = check({"one": {}})
    from adapters import register
    from serving import model_catalog

    first = catalog.served[0].version
    second = register.register(first.folder.parents[1], "one", "one", bump="minor")
    both = model_catalog.check([first, second], None, model_catalog.BaseOptions())
    assert both.find("one").id == "one@v1.1.0" and both.find("one@1.0").id == "one@v1.0.0"


def test_dora_adapters_are_not_mixed_with_others(check):
    dora = adapter_runs.tensors()
    for name in [n for n in dora if n.endswith("lora_A.weight")]:
        dora[name.replace("lora_A.weight", "lora_magnitude_vector")] = dora[name][0] ** 2
    assert check({"one": {}}).mixed
    assert not check({"two": {"use_dora": True}}, tensors=dora).mixed


def test_an_adapter_that_changes_the_base_is_served_alone(check):
    from kit import console

    catalog = check({"one": {"bias": "all"}})
    assert [served.id for served in catalog.served] == ["one@v1.0.0"]
    with pytest.raises(console.Problem, match="serve it alone"):
        check({"three": {}, "two": {"bias": "all"}})


@pytest.mark.parametrize(
    ("trained", "option", "bits"),
    [({}, None, ""), ({"load_in_4bit": True}, None, "4"), ({"load_in_8bit": True}, None, "8"),
     ({"load_in_4bit": True}, False, ""), ({}, True, "4"), ({"load_in_8bit": True}, True, "4")],
)  # fmt: skip
def test_the_base_is_loaded_as_it_was_trained_unless_told(check, trained, option, bits):
    section = check({"one": {}}, quantization=trained, load_in_4bit=option).quantization
    assert (section["load_in_4bit"], section["load_in_8bit"]) == (bits == "4", bits == "8")
