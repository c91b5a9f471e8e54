"""Sweeps: every combination once, compared in one table, resumed where they stopped."""

import json

import pytest

import sweep as command
from kit import console
from support import tiny
from support.checkout import ROOT
from workflow import candidates, sweep_runs

# Answers as the training manager does: the loss is learning_rate-like in r, so that r=16 is best.
MANAGER = """
import json, pathlib, sys
words = sys.argv[1:]
log = pathlib.Path(__file__).with_name("calls")
with log.open("a") as f: f.write(" ".join(words) + "\\n")
sets = dict(w.split("=", 1) for a, w in zip(words, words[1:]) if a == "--set")
if sets.get("lora.r") == "99": sys.exit("training_manager.py: lora: out of GPU memory; lower r")
stage, state = words[words.index("--stage") + 1], words[words.index("--state") + 1]
if "--confirm" not in words:
    print(json.dumps({"stages": {"lora": {"state": "would run"}}}))
    sys.exit()
loss = abs(int(sets["lora.r"]) - 16) + 1
pathlib.Path(state).write_text("{}")
print(json.dumps({"run": "run-" + sets["lora.r"], "before": None,
                  "after": {"loss": {"value": loss}, "f1": {"value": 1 / loss}}}))
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    (tmp_path / "manager.py").write_text(MANAGER)
    (tmp_path / "adapters" / "runs").mkdir(parents=True)
    monkeypatch.setattr(sweep_runs, "MANAGER", tmp_path / "manager.py")
    return tmp_path


def run(capsys, *words):
    code = command.main([str(word) for word in words])
    return code, capsys.readouterr().out


def calls(work):
    return (work / "calls").read_text().splitlines()


@pytest.mark.slow
def test_every_combination_is_trained_and_the_best_comes_first(work, capsys):
    words = ("--try", "lora.r=8,16,32", "--try", "training.seed=1,2", "--confirm", "--json")
    code, out = run(capsys, *words)
    table = json.loads(out)["candidates"]
    assert code == 0 and len(table) == 6
    assert [row["settings"][0] for row in table] == ["lora.r=16"] * 2 + ["lora.r=8"] * 2 + [
        "lora.r=32"] * 2  # fmt: skip
    assert [line.split()[1] for line in calls(work)] == ["lora", "eval"] * 6
    states = {line.split()[3] for line in calls(work)}
    assert len(states) == 6  # a state file of its own: the manager resumes each
    saved = json.loads((work / "adapters/runs/sweep-settings.json").read_text())
    assert saved["candidates"] == table and saved["metric"] == "loss"


def test_the_same_candidate_has_the_same_state_file_whatever_the_order(work, capsys):
    run(capsys, "--try", "lora.r=8,16", "--try", "training.seed=1", "--confirm")
    run(capsys, "--try", "training.seed=1", "--try", "lora.r=16,8,32", "--confirm")
    assert len({line.split()[3] for line in calls(work)}) == 3


def test_a_training_that_fails_is_noted_and_the_next_begins(work, capsys):
    code, out = run(capsys, "--try", "lora.r=99,16", "--metric", "f1", "--confirm")
    assert code == 1
    lines = out[out.index("\n\n") :].split("\n")
    assert lines[2].split()[:2] == ["f1", "loss"]
    assert "run-16" in lines[3] and "failed" in lines[4] and "best  lora.r=16" in out
    with pytest.raises(console.Problem, match="no training ended well; the first: .*GPU memory"):
        run(capsys, "--try", "lora.r=99", "--confirm")


def test_without_confirm_nothing_is_trained(work, capsys):
    code, out = run(capsys, "--try", "lora.r=8,16")
    assert code == 0 and "lora.r=8" in out and "--confirm trains them" in out
    assert len(calls(work)) == 1 and "--confirm" not in calls(work)[0]
    assert not (work / "adapters/runs/sweep-settings.json").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--try", "lora.rank=8,16"], "lora.rank: unknown key"),
        (["--try", "lora.r=8,many"], "lora.r"),
        (["--try", "lora.r"], "not KEY=VALUES"),
        (["--try", "eval:data.max_samples=3,4"], "not KEY=VALUES"),
        (["--try", "lora.r=8", "--try", "lora.r=16"], "given twice"),
        (["--try", "training.learning_rate=1e-5..1e-3"], "is a range"),
        (["--try", "training.learning_rate=1e-3..1e-5", "--random", "2"], "positive numbers"),
        (["--try", f"lora.r={','.join(map(str, range(1, 200)))}"], "199 combinations"),
        (["--try", "lora.r=8", "--metric", "speed"], "--metric speed: unknown"),
        (["--try", "lora.r=8", "--name", "../x"], "not a plain name"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_runs(work, words, expected):
    with pytest.raises(console.Misuse, match=expected):
        command.main(words)
    assert not (work / "calls").exists()


def test_a_random_draw_is_repeatable_different_and_inside_its_ranges():
    values = candidates.parse_values(["training.learning_rate=1e-5..1e-3", "lora.r=8,16"])
    first = candidates.draw(values, 20, seed=1)
    assert first == candidates.draw(values, 20, seed=1) != candidates.draw(values, 20, seed=2)
    assert len(set(first)) == 20
    rates = [float(candidate[0].partition("=")[2]) for candidate in first]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates) and min(rates) < 1e-4 < max(rates)
    few = candidates.parse_values(["lora.r=8,16"])
    assert len(candidates.draw(few, 20, seed=1)) == 2


def test_lists_and_quoted_values_stay_whole():
    values = candidates.parse_values(
        ["lora.target_modules=[q_proj, v_proj],[o_proj],'a,b',[o_proj]"]
    )
    assert values == {"lora.target_modules": ["[q_proj, v_proj]", "[o_proj]", "'a,b'"]}


@pytest.mark.slow
@pytest.mark.remote_env
@pytest.mark.skipif(not (ROOT / ".venv-remote").exists(), reason="needs .venv-remote")
def test_two_trainings_are_compared_and_the_second_call_trains_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    tiny.write_rows(tmp_path, train=64, val=8)
    (tmp_path / "data/processed/manifest.json").write_text('{"files": {}}')
    tiny.build(tmp_path, steps=20)
    words = [*tiny.options(training__max_steps=5),
             "--set", "safety.dry_run=false", "--set", "quantization.load_in_4bit=false",
             "--set", "eval:generation.max_new_tokens=4", "--set", "eval:data.max_samples=4",
             "--set", "eval:metrics.bootstrap_samples=100",
             "--try", "lora.r=4,8", "--confirm", "--json"]  # fmt: skip
    code, out = run(capsys, *words)
    first = json.loads(out)["candidates"]
    assert code == 0 and len({row["run"] for row in first}) == 2, out
    assert first[0]["after"]["loss"]["value"] <= first[1]["after"]["loss"]["value"]
    runs = sorted(p.name for p in (tmp_path / "adapters/runs").iterdir() if p.is_dir())
    assert json.loads(run(capsys, *words)[1])["candidates"] == first
    assert runs == sorted(p.name for p in (tmp_path / "adapters/runs").iterdir() if p.is_dir())
