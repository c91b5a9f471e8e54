"""scripts/eval.py as users call it, on a miniature that was trained by the real trainer."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from kit import jsonl
from support import adapter_runs, tiny
from support.changing_adapters import changing_adapter
from support.checkout import ROOT

TOKENS = ("--max-new-tokens", "12")


# --- without a model ----------------------------------------------------------------------------


def test_help_needs_no_package_at_all():
    words = [sys.executable, "-S", "-E", str(ROOT / "scripts" / "eval.py"), "--help"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--dataset" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --model with --dataset, or --predictions"),
        (("--model", "x"), "--model needs --dataset FILE"),
        (("--model", "x", "--dataset", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--predictions", __file__, "--rag", "docs"), "leave out --dataset, --rag and --base"),
        (("--predictions", __file__, "--run", "nowhere"), "nowhere: no such run folder"),
        (("--predictions", __file__, "--run", "."), "no run (it has status.json, config.yaml)"),
        (("--predictions", __file__, "--batch-size", "0"), "generation.batch_size: 0 is not"),
    ],
)
def test_wrong_calls_end_with_one_line_and_exit_2(command, arguments, message):
    done = command("eval.py", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_missing_package_is_said_with_the_environment_that_has_it(tmp_path):
    """A module that is None in sys.modules cannot be imported."""
    program = (
        "import sys; sys.modules['rouge_score'] = None; "
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r}); "
        "import eval; eval.console.run(eval.main)"
    )
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prediction": "a", "reference": "b"}\n')
    words = [sys.executable, "-c", program, "--predictions", file]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "rouge_score is missing" in done.stderr and ".venv-local" not in done.stderr.partition(
        "; ")[2]  # fmt: skip
    assert "run it with .venv-remote/bin/python" in done.stderr


@pytest.mark.remote_env
def test_predictions_are_scored_without_torch_and_equal_the_references(samples, tmp_path):
    """A module that is None in sys.modules cannot be imported."""
    program = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r}); "
        "import eval; sys.exit(eval.main(sys.argv[1:]))"
    )
    file = samples / "evalref" / "pairs_davinci002_first80.jsonl"
    words = [sys.executable, "-c", program, "--predictions", file, "--out-dir", tmp_path, "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    wanted = json.loads((samples / "evalref" / "expected_corpus.json").read_text())[file.name]
    names = {"exact_match": "em", "f1": "f1", "rouge_l": "rougeL_f", "bleu": "corpus_bleu"}
    for ours, theirs in names.items():
        assert report["metrics"][ours]["value"] == pytest.approx(wanted[theirs], abs=1e-6), ours
    assert report["bleu_signature"] == wanted["bleu_signature"]
    assert (report["model"], report["base"], report["dataset"]["rows"]) == (None, None, 80)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".html"}


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("config.yaml", "model: [", "config.yaml: not YAML"),
        ("config.yaml", "- 1", "config.yaml: no sections in its configuration"),
        ("config.yaml", "model: 3", "config.yaml: model: "),
        ("config.yaml", "model: {dtype: 3}", "config.yaml: model.dtype: "),
        ("run.json", "[]", "run.json: not a JSON object"),
        ("run.json", '{"base_identity": 3}', "run.json: base_identity is no object"),
        ("final/adapter_config.json", "[]", "adapter_config.json: not a JSON object"),
        ("final/adapter_config.json", "{}", "adapter_config.json: names no base model"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(tmp_path, monkeypatch, file, text, expected):
    from config import loader
    from evaluation import targets
    from kit import console

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    run = adapter_runs.run(tmp_path)
    (run / file).write_text(text)
    with pytest.raises(console.Problem) as problem:
        targets.resolve("r1", None, loader.load("eval.yaml"))
    assert expected in str(problem.value) and str(problem.value).endswith("; restore that file")


# --- with the miniature -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with a base, and the run `first`: an adapter trained on it, unquantised."""
    folder = tmp_path_factory.mktemp("work")
    tiny.write_rows(folder, val=24)
    tiny.build(folder)
    for file in (folder / "data" / "processed").iterdir():  # another form than the base knows
        file.write_text(file.read_text().replace('"It is ', '"Weather in '))
    options = tiny.options(model__dtype="float32", quantization__load_in_4bit=False,
                                training__max_steps=40, training__eval_steps=20,
                                training__save_steps=20)  # fmt: skip
    words = [sys.executable, ROOT / "scripts" / "lora_trainer.py", "--run-id", "first",
             "--confirm-run", "--set", "safety.dry_run=false", *options]  # fmt: skip
    env = os.environ | {
        "TANDEM_WORKDIR": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def evaluate(work, monkeypatch, capsys):
    """Run eval.py in this process on the validation rows; returns the report."""
    import eval as command

    monkeypatch.setenv("TANDEM_WORKDIR", str(work))
    monkeypatch.chdir(work)

    def run(*arguments, dataset="data/processed/val_sft.jsonl"):
        words = ["--dataset", str(dataset), "--json", *TOKENS, *map(str, arguments)]
        assert command.main(words) == 0
        return json.loads(capsys.readouterr().out)

    return run


def remove_reports(run):
    for name in ("report.json", "report.html"):
        (run / name).unlink(missing_ok=True)


@pytest.mark.remote_env
@pytest.mark.slow
class TestWithMiniature:
    def test_an_adapter_is_measured_beside_its_base_and_the_run_gets_the_report(
        self, work, evaluate
    ):
        report = evaluate("--model", "first")
        run = work / "adapters" / "runs" / "first"
        assert json.loads((run / "report.json").read_text()) == report
        page = (run / "report.html").read_text()
        assert "<svg" in page and "Worst regressions" in page
        assert report["model"] == "adapters/runs/first/final"
        assert report["base_model"] == "models/miniature"
        assert set(report["metrics"]) == {"exact_match", "f1", "rouge_l", "bleu", "loss"}
        gain = report["difference"]["loss"]
        assert report["metrics"]["loss"]["value"] < report["base"]["loss"]["value"]
        assert gain["low"] <= gain["value"] <= gain["high"] < 0
        assert len(list((work / "reports").glob("eval_first_*.json"))) >= 1

    def test_the_losses_are_those_that_the_model_computes_row_by_row(self, work, evaluate):
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from training import encoding

        report = evaluate("--model", "first", "--batch-size", 5)
        tokenizer = AutoTokenizer.from_pretrained(work / "models" / "miniature")
        base = AutoModelForCausalLM.from_pretrained(
            work / "models" / "miniature", dtype=torch.float32
        )
        adapted = PeftModel.from_pretrained(base, work / "adapters" / "runs" / "first" / "final")
        adapted.eval()

        def loss():
            total = tokens = 0
            for line in (work / "data" / "processed" / "val_sft.jsonl").open():
                coded = encoding.encode(tokenizer, json.loads(line), 2048)
                ids, labels = (torch.tensor([coded[k]]) for k in ("input_ids", "labels"))
                many = int((labels != -100).sum())
                with torch.no_grad():
                    total += adapted(input_ids=ids, labels=labels).loss.item() * many
                tokens += many
            return total / tokens

        assert report["metrics"]["loss"]["value"] == pytest.approx(loss(), rel=1e-5)
        with adapted.disable_adapter():
            assert report["base"]["loss"]["value"] == pytest.approx(loss(), rel=1e-5)

    def test_answers_do_not_depend_on_the_batch_and_saved_ones_score_the_same(
        self, work, evaluate, tmp_path, capsys
    ):
        import eval as command

        reports, answers = [], []
        for size in (1, 16):
            file = tmp_path / f"{size}.jsonl"
            reports.append(evaluate("--model", "first", "--batch-size", size,
                                    "--save-predictions", file))  # fmt: skip
            answers.append(file.read_text())
        assert answers[0] == answers[1] and answers[0].count("\n") == 24
        assert reports[0]["metrics"] == reports[1]["metrics"]
        assert command.main(["--predictions", str(tmp_path / "1.jsonl"), "--json"]) == 0
        again = json.loads(capsys.readouterr().out)["metrics"]
        assert again == {k: v for k, v in reports[0]["metrics"].items() if k != "loss"}

    def test_a_version_is_measured_by_its_name(self, evaluate):
        import checkpoint_manager

        evaluate("--model", "first")
        checkpoint_manager.CheckpointManager().register("first", "forecast")
        report = evaluate("--model", "forecast@latest", "--max-samples", 4)
        assert (report["name"], report["dataset"]["rows"]) == ("forecast@v1.0.0", 4)
        assert report["base_model"] == "models/miniature"
        assert evaluate("--model", "forecast", "--max-samples", 4)["name"] == "forecast@v1.0.0"

    @pytest.mark.parametrize("kind", ["pissa", "olora", "resized", "padded"])
    def test_the_base_beside_an_adapter_that_changes_it_is_the_untouched_one(
        self, work, evaluate, tmp_path, kind
    ):
        alone = evaluate("--model", "models/miniature")["metrics"]["loss"]["value"]
        report = evaluate("--model", changing_adapter(work, tmp_path / kind, kind),
                          "--base", work / "models" / "miniature")  # fmt: skip
        assert report["base"]["loss"]["value"] == pytest.approx(alone, rel=1e-4)
        assert report["metrics"]["loss"]["value"] != pytest.approx(alone, rel=1e-3)

    def test_an_adapter_that_cannot_come_back_is_refused_before_anything_is_loaded(
        self, work, evaluate, tmp_path
    ):
        from kit import console

        folder = changing_adapter(work, tmp_path / "a", "pissa_niter_4")
        with pytest.raises(console.Problem, match="a random SVD.* cannot be loaded.*convert it"):
            evaluate("--model", folder, "--base", work / "models" / "miniature")

    def test_a_checkpoint_s_numbers_do_not_become_the_run_s(self, work, evaluate):
        run = work / "adapters" / "runs" / "first"
        remove_reports(run)
        report = evaluate("--model", run / "checkpoints" / "checkpoint-20", "--max-samples", 4)
        assert report["name"] == "first-checkpoint-20"
        assert not (run / "report.json").exists()

    def test_a_whole_model_stands_alone_or_beside_the_one_given(self, evaluate):
        alone = evaluate("--model", "models/miniature", "--max-samples", 4, "--no-loss")
        assert alone["base"] is None and "loss" not in alone["metrics"]
        both = evaluate("--model", "models/miniature", "--base", "models/miniature",
                        "--max-samples", 4)  # fmt: skip
        assert both["base"] == both["metrics"] and both["regressions"] == []

    def test_the_base_is_loaded_as_the_run_s_configuration_says(self, work, evaluate):
        run = work / "adapters" / "runs" / "quantised"
        shutil.copytree(work / "adapters" / "runs" / "first", run)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(
            config.replace("load_in_4bit: false", "load_in_4bit: true")
        )
        four_bit, full = evaluate("--model", run), evaluate("--model", "first")
        assert four_bit["settings"]["quantization"]["load_in_4bit"] is True
        assert four_bit["base"]["loss"]["value"] != full["base"]["loss"]["value"]
        assert four_bit["base"]["loss"]["value"] == pytest.approx(
            full["base"]["loss"]["value"], rel=0.2
        )

    def test_another_base_is_one_line_and_no_report(self, work, evaluate):
        from kit import console

        other = work / "models" / "other"
        shutil.copytree(work / "models" / "miniature", other, dirs_exist_ok=True)
        config = (other / "config.json").read_text()
        (other / "config.json").write_text(config.replace('"silu"', '"gelu"'))
        run = work / "adapters" / "runs" / "first"
        remove_reports(run)
        before = sorted((work / "reports").glob("*"))
        with pytest.raises(console.Problem, match="not the base model of first.*--base"):
            evaluate("--model", "first", "--base", other)
        assert not (run / "report.json").exists()
        assert sorted((work / "reports").glob("*")) == before

    def test_long_prompts_are_left_out_and_counted(self, evaluate, tmp_path, capsys):
        rows = tiny.rows(5)
        rows[2]["messages"][0]["content"] *= 40
        file = tmp_path / "rows.jsonl"
        jsonl.write(file, rows)
        report = evaluate("--model", "models/miniature", "--set", "data.max_length=128",
                          dataset=file)  # fmt: skip
        assert (report["dataset"]["rows"], report["settings"]["left_out"]) == (4, 1)

    def test_a_tool_call_is_compared_as_the_template_writes_it(self, evaluate, tmp_path):
        call = {"type": "function", "function": {"name": "forecast", "arguments": {"city": "Oslo"}}}
        turns = [{"role": "user", "content": "Weather in Oslo?"},
                 {"role": "assistant", "content": "", "tool_calls": [call]}]  # fmt: skip
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps({"messages": turns, "tools": [call]}) + "\n")
        report = evaluate("--model", "models/miniature", dataset=file)
        wanted = '{"name": "forecast", "parameters": {"city": "Oslo"}}'
        assert report["samples"][0]["reference"] == wanted

    def test_a_bad_file_names_its_rows_and_leaves_the_reports_alone(self, work, command, tmp_path):
        file = tmp_path / "bad.jsonl"
        good = json.dumps({"question": "a\u0085b", "answers": ["c"]}, ensure_ascii=False)
        user = {"role": "user", "content": "Tell {{name}}"}
        bad = {"messages": [user, {"role": "assistant", "content": "x"}]}
        file.write_text("\n".join([good, '{"messages": []}', json.dumps(bad)]) + "\n")
        before = sorted((work / "reports").glob("*"))
        done = command("eval.py", "--model", "models/miniature", "--dataset", file,
                       env={"TANDEM_WORKDIR": str(work)})  # fmt: skip
        assert done.returncode == 1 and done.stdout == ""
        lines = done.stderr.splitlines()
        assert lines[0].startswith(f"{file}:2: ") and "{{name}}" in lines[1]
        assert "2 of 3 rows cannot be used" in lines[2] and len(lines) == 3
        assert sorted((work / "reports").glob("*")) == before
