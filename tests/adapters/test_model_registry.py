"""model_registry.py: entries, base models, and which version should answer."""

from __future__ import annotations

import json

import pytest

from support import adapter_runs

MODELS = """
base_models: {}
entries:
  transformer_lora: {base_model: models/tiny, checkpoint: mapper-lora@latest}
  rl_trained_lora: {base_model: models/tiny, checkpoint: "mapper-rl@^1.0"}
selection: {base_model: models/tiny}
"""


@pytest.fixture
def registry(tmp_path, monkeypatch, capsys):
    """registry("select", ...): model_registry.py with the entries above."""
    (tmp_path / "models.yaml").write_text(MODELS)
    adapter_runs.base(tmp_path / "models" / "tiny")
    call = adapter_runs.caller("model_registry", tmp_path, monkeypatch, capsys)
    return lambda *a, **k: call(*a, "--config", tmp_path / "models.yaml", **k)


@pytest.fixture
def register(tmp_path, monkeypatch, capsys):
    """register(name, report or None, *options): a run becomes the next version of `name`."""
    manage = adapter_runs.caller("checkpoint_manager", tmp_path, monkeypatch, capsys)
    count = iter(range(100))

    def run(name: str, report: dict | None, *options: str) -> str:
        seed = next(count)
        weights = adapter_runs.tensors(seed=seed)
        folder = adapter_runs.run(tmp_path, f"r{seed}", weights, report=report)
        return manage("register", folder, "--name", name, *options).stdout.strip()

    run.manage = manage
    return run


def selected(registry, *options) -> dict:
    return json.loads(registry("select", "--json", *options).stdout)


def test_the_shipped_configuration_has_the_three_entries_and_two_base_models(command):
    done = command("model_registry.py", "list", "--json")
    models = {row["name"]: row for row in json.loads(done.stdout)["models"]}
    assert [n for n, row in models.items() if row["kind"] == "adapter"] == [
        "transformer_lora", "rl_trained_lora", "mamba_lora"]  # fmt: skip
    assert models["Llama-3.1-8B-Instruct"]["folder"] is None
    assert command("model_registry.py", "select").stdout == "Llama-3.1-8B-Instruct\n"


def test_without_a_version_the_base_answers_and_the_reason_is_said(registry):
    done = registry("select")
    assert done.stdout == "models/tiny\n"
    assert "models/tiny: no adapter's gate passed" in done.stderr
    assert "not mapper-lora@latest: no adapter is named mapper-lora" in done.stderr


def test_the_best_score_on_the_same_evaluation_wins_over_entry_and_version(registry, register):
    register("mapper-lora", adapter_runs.report(0.60))
    register("mapper-lora", adapter_runs.report(0.56))
    assert selected(registry)["name"] == "mapper-lora@v1.0.0"
    register("mapper-rl", adapter_runs.report(0.70))
    choice = selected(registry)
    assert choice["name"] == "mapper-rl@v1.0.0" and choice["entry"] == "rl_trained_lora"
    assert choice["why"] == "the best of 3 whose gate passed, f1 0.7000"
    assert choice["base_folder"].endswith("models/tiny")


def test_scores_on_different_data_are_not_compared_the_order_decides(registry, register):
    register("mapper-lora", adapter_runs.report(0.30))
    register("mapper-rl", adapter_runs.report(0.90, dataset="e" * 64))
    assert selected(registry)["name"] == "mapper-lora@v1.0.0"


def test_a_version_whose_gate_did_not_pass_is_not_selected(registry, register):
    register("mapper-lora", adapter_runs.report(0.60))
    register("mapper-lora", None)
    register("mapper-rl", adapter_runs.report(0.30, base=0.90))
    choice = selected(registry)
    assert choice["name"] == "mapper-lora@v1.0.0"
    why = {row["name"]: row["why"] for row in choice["rejected"]}
    assert why["mapper-lora@v1.0.1"] == "its gate did not pass (unevaluated)"
    assert why["mapper-rl@v1.0.0"] == "its gate did not pass (below_base)"


def test_a_forced_version_may_answer_and_its_reason_is_shown(registry, register):
    register("mapper-rl", adapter_runs.report(0.30, base=0.90), "--force", "wanted in German")
    assert "forced: wanted in German" in registry("select").stderr


def test_retired_tampered_and_idle_versions_are_passed_over(registry, register, tmp_path):
    for f1 in (0.5, 0.6, 0.7, 0.8):
        register("mapper-lora", adapter_runs.report(f1))
    folder = tmp_path / "adapters" / "mapper-lora"
    register.manage("retire", "mapper-lora@v1.0.3", "--reason", "old")
    adapter_runs.rewrite(folder / "v1.0.2" / "tokenizer_config.json", "[]")
    (folder / "v1.0.1.canary.json").write_text('{"ok": false}')
    choice = selected(registry)
    assert choice["name"] == "mapper-lora@v1.0.0"
    why = {row["name"]: row["why"] for row in choice["rejected"]}
    assert "its canary failed" in why["mapper-lora@v1.0.1"]
    assert "tokenizer_config.json: its SHA-256" in why["mapper-lora@v1.0.2"]


def test_a_damaged_card_does_not_stop_the_selection(registry, register, tmp_path):
    register("mapper-lora", adapter_runs.report(0.5))
    register("mapper-lora", adapter_runs.report(0.6))
    adapter_runs.rewrite(tmp_path / "adapters/mapper-lora/v1.0.1/card.json", "{")
    assert selected(registry)["name"] == "mapper-lora@v1.0.0"


def test_the_switch_gives_the_base(registry, register):
    register("mapper-lora", adapter_runs.report(0.6))
    choice = selected(registry, "--set", "selection.prefer_rag_finetuned=false")
    assert choice["kind"] == "base" and choice["why"] == "prefer_rag_finetuned is false"


def test_one_entry_alone_can_be_asked(registry, register):
    register("mapper-lora", adapter_runs.report(0.6))
    choice = json.loads(registry("select", "rl_trained_lora", "--json").stdout)
    assert choice["kind"] == "base"
    choice = json.loads(registry("select", "transformer_lora", "--json").stdout)
    assert choice["name"] == "mapper-lora@v1.0.0"


def test_unknown_names_get_the_nearest(registry):
    assert "did you mean transformer_lora?" in registry("show", "transformer", fails=2).stderr
    assert "did you mean rl_trained_lora?" in registry("select", "rl_lora", fails=2).stderr
    assert "show needs a name" in registry("show", fails=2).stderr


def test_an_unknown_key_in_models_yaml_is_named_with_its_line(registry, tmp_path):
    (tmp_path / "models.yaml").write_text(MODELS + "defaults: {}\n")
    assert "models.yaml:7: defaults: unknown key" in registry("list", fails=2).stderr


def test_show_lists_what_an_entry_may_use(registry, register, tmp_path):
    register("mapper-lora", adapter_runs.report(0.6))
    register("mapper-lora", None)
    row = json.loads(registry("show", "transformer_lora", "--json").stdout)
    assert [v["name"] for v in row["usable"]] == ["mapper-lora@v1.0.0"]
    assert "mapper-lora@v1.0.0  (wants mapper-lora@latest)" in registry(
        "show", "transformer_lora").stdout  # fmt: skip
