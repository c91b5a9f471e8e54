"""The table of metrics and the intervals against published scores and known cases."""

import json
import math
from pathlib import Path

import pytest

from adapters import gate, metrics
from evaluation import intervals, page

REFERENCES = Path(__file__).parents[3] / "shared" / "samples" / "evalref"
ALPHABETS = ["你好，世界！今天的天气很好。", "Привет, мир! Как дела сегодня?",
             "สวัสดีชาวโลก", "हिन्दी में लिखना", "안녕하세요 세계", "日本語のテキスト"]  # fmt: skip


def sample(name):
    if not REFERENCES.is_dir():
        pytest.skip(f"the reference scores are not at {REFERENCES}")
    text = (REFERENCES / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line]


# --- any environment ----------------------------------------------------------------------------


def test_exact_match_and_f1_of_each_trivia_row_equal_the_squad_script():
    for row in sample("trivia_em_f1_90.jsonl"):
        best = [max(score(row["prediction"], a) for a in row["answers"])
                for score in (metrics.exact_match, metrics.f1)]  # fmt: skip
        assert best == pytest.approx([row["em"], row["f1"]], abs=1e-6), row["id"]


def test_exact_match_and_f1_of_the_trivia_file_equal_the_squad_script():
    rows, wanted = sample("trivia_em_f1_90.jsonl"), sample("expected_corpus.json")
    for score, name in ((metrics.exact_match, "exact_match"), (metrics.f1, "f1")):
        total = sum(max(score(r["prediction"], a) for a in r["answers"]) for r in rows)
        percent = wanted["trivia_em_f1_90.jsonl"][name]  # of scores that were rounded to 1e-6
        assert total / len(rows) == pytest.approx(percent / 100, abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "reference", "both"),
    [("A", "A", 1), ("(a)", "A.", 1), ("", "A", 0), ("The", "A", 0), ("a the", "A", 0),
     ("an apple", "An", 0), ("the the", "The The", 1), ("", "", 1), ("The", "", 0), ("x", "", 0),
     ("+", "+", 1), ("-", "+", 0), ("a", "+", 0), ("The", "cat", 0), ("?!", "? !", 0),
     ("the 猫", "猫", 1), ("The", "猫", 0)],
)  # fmt: skip
def test_where_squads_rule_leaves_nothing_both_scores_are_all_or_nothing(
    prediction, reference, both
):
    """As in SQuAD 2.0, but an answer of articles or punctuation alone is not an empty one."""
    assert metrics.exact_match(prediction, reference) == both
    assert metrics.f1(prediction, reference) == both


def test_an_empty_reference_counts_only_where_there_is_no_other():
    for name in ("exact_match", "f1"):
        scorer = metrics.BY_NAME[name].scorer([], None)
        assert scorer("", ["", "Paris"]) == [0] and scorer("", [""]) == [1]
        assert scorer("Paris", ["", "Paris"]) == [1] and scorer("Paris", [""]) == [0]


def test_adding_a_metric_is_one_entry_of_the_table(monkeypatch):
    """Scores, intervals, reports, pages and the gate ask the table and know no metric by name."""
    length = metrics.Metric(
        "length", "Length", "words, lower is better", ("length",),
        lambda sums, rows: [n / rows for n in sums["length"]],
        lambda columns, i: columns["length"][i],
        lambda references, tokenize: lambda prediction, wanted: [len(prediction.split())],
        None, higher_is_better=False, highest=math.inf, digits=1,
    )  # fmt: skip
    monkeypatch.setattr(metrics, "METRICS", (length,))
    monkeypatch.setattr(metrics, "BY_NAME", {"length": length})
    scores = metrics.score(["one two", "three"], [["x"], ["y"]])
    summaries, _ = intervals.summarise([scores], intervals.Settings(samples=10))
    assert summaries[0]["length"]["value"] == 1.5 and scores.row(0) == {"length": 2}
    assert metrics.cell("length", {"value": 1.5, "low": 1, "high": 2}) == "1.5 [1.0, 2.0]"
    assert page.verdict("length", {"value": -1, "low": -2, "high": -0.5}) == "better"
    worse = gate.drops({"length": {"value": 3}}, {"length": {"value": 1, "low": 1, "high": 2}})
    assert gate.drops_in_words(worse) == "length 3 (best 1, at most 2 needed)"
    assert metrics.ranges() == "Length: words, lower is better"


def test_every_metric_has_a_name_a_range_and_a_direction():
    assert [m.name for m in metrics.METRICS] == ["exact_match", "f1", "rouge_l", "bleu", "loss"]
    assert metrics.RANKED == ("f1", "rouge_l", "exact_match", "bleu")
    assert metrics.worse("loss", 2, 1) and metrics.worse("eval_loss", 2, 1)
    assert metrics.worse("f1", 0.1, 0.2) and metrics.worse("unknown", 0, 1)
    assert metrics.text("bleu", 12.345) == "12.35" and metrics.text("f1", None) == "-"


@pytest.mark.parametrize("text", ALPHABETS)
def test_identical_texts_score_one_in_every_script(text):
    assert metrics.exact_match(text, text) == metrics.f1(text, text) == 1.0


def test_punctuation_of_other_scripts_does_not_count():
    assert metrics.exact_match("你好世界", "你好，世界！") == 1.0
    assert metrics.exact_match("«Война и мир»", "Война и мир") == 1.0


def test_half_a_chinese_answer_scores_by_its_characters():
    assert metrics.f1("今天天气", "今天很热") == pytest.approx(0.5)


def test_words_keep_marks_with_their_letter_and_split_unspaced_scripts():
    assert metrics.words("Don't über 北京 हिन्दी _x_") == [
        "don", "t", "über", "北", "京", "हिन्दी", "x"]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "needed"),
    [("plain", False), ("obl\u012bquus “quoted” 🐱", False), ("мир", True), ("a 猫", True)],
)
def test_unicode_rules_are_used_only_where_ascii_rules_lose_a_word(reference, needed):
    assert metrics.needs_unicode(reference) is needed


@pytest.mark.parametrize(
    ("reference", "tokenizer"),
    [("An English text", "13a"), ("Русский текст", "13a"), ("一个简单的句子", "zh"),
     ("สวัสดีชาวโลก", "char"), ("これはペンです", "char")],
)  # fmt: skip
def test_bleu_gets_a_tokenizer_that_fits_the_script(reference, tokenizer):
    assert metrics.bleu_tokenizer([[reference]]) == tokenizer


# --- with rouge-score and sacrebleu -------------------------------------------------------------


@pytest.fixture(scope="module")
def scored():
    rows = sample("pairs_davinci002_first80.jsonl")
    texts, references = [r["prediction"] for r in rows], [[r["reference"]] for r in rows]
    return rows, references, metrics.score(texts, references)


@pytest.mark.remote_env
@pytest.mark.parametrize(("ours", "theirs"), [("exact_match", "em"), ("f1", "f1"),
                                              ("rouge_l", "rougeL_f")])  # fmt: skip
def test_each_of_the_80_real_outputs_scores_as_the_reference_says(scored, ours, theirs):
    rows, _, scores = scored
    wanted = [row[theirs] for row in rows]
    assert scores.columns[ours] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.remote_env
def test_corpus_scores_equal_the_references(scored):
    _, references, scores = scored
    wanted = sample("expected_corpus.json")["pairs_davinci002_first80.jsonl"]
    summary = intervals.summarise([scores], intervals.Settings())[0][0]
    pairs = {"exact_match": "em", "f1": "f1", "rouge_l": "rougeL_f", "bleu": "corpus_bleu"}
    for ours, theirs in pairs.items():
        assert summary[ours]["value"] == pytest.approx(wanted[theirs], abs=1e-6), ours
    assert metrics.bleu_signature(references, "13a") == wanted["bleu_signature"]


@pytest.mark.remote_env
def test_bleu_of_summed_counts_is_sacrebleus_corpus_score_for_any_number_of_references():
    from sacrebleu.metrics import BLEU

    texts = ["the cat sat on the mat today", "a dog barks at the grey moon", "nothing in common"]
    references = [["the cat sat on a mat today", "a cat sat on the mat"],
                  ["the dog barks at the moon"], ["", "else entirely different here"]]  # fmt: skip
    count = metrics.bleu_counter(references, "13a")
    counts = [count(text, wanted) for text, wanted in zip(texts, references, strict=True)]
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(2)]
    expected = BLEU().corpus_score(texts, streams).score
    assert metrics.bleu([sum(c) for c in zip(*counts, strict=True)]) == pytest.approx(expected)


@pytest.mark.remote_env
def test_identical_texts_get_rouge_one_in_every_script_and_bleu_100():
    scores = metrics.score(ALPHABETS, [[text] for text in ALPHABETS])
    assert scores.columns["rouge_l"] == [1.0] * len(ALPHABETS)
    assert scores.unicode_rows == len(ALPHABETS)
    for text in ("Привет, мир! Как дела сегодня?", "今天的天气非常好我们去公园"):
        columns = metrics.score([text], [[text]]).columns
        assert metrics.BY_NAME["bleu"].value(columns, 1) == pytest.approx([100])


@pytest.mark.remote_env
def test_a_prediction_without_the_reference_s_words_scores_zero():
    scores = metrics.score(["猫", ""], [["собака"], ["dog"]])
    for name in ("exact_match", "f1", "rouge_l"):
        assert scores.columns[name] == [0.0, 0.0]


# --- intervals ----------------------------------------------------------------------------------


def column(values, totals=None, tokens=None):
    """Scores with `values` as every measure, one BLEU-perfect word each."""
    counts = dict(zip(metrics.BLEU_COLUMNS, [4, 4, 4, 3, 2, 1, 4, 3, 2, 1], strict=True))
    columns = dict.fromkeys(("exact_match", "f1", "rouge_l"), values)
    columns |= {name: [n] * len(values) for name, n in counts.items()}
    if totals:
        columns |= {"loss_total": totals, "loss_tokens": tokens}
    return metrics.Scores(columns)


@pytest.mark.remote_env
def test_intervals_hold_the_mean_and_have_the_width_that_theory_says():
    values = [float(i % 2) for i in range(400)]
    f1 = intervals.summarise([column(values)], intervals.Settings(samples=4000))[0][0]["f1"]
    half = 1.96 * math.sqrt(0.25 / 400)
    assert f1["value"] == 0.5
    assert f1["low"] == pytest.approx(0.5 - half, abs=0.006)
    assert f1["high"] == pytest.approx(0.5 + half, abs=0.006)


@pytest.mark.remote_env
def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    values = [float(i % 3 == 0) for i in range(50)]
    runs = [intervals.summarise([column(values)], intervals.Settings(seed=s))[0][0]["f1"]
            for s in (1, 1, 2)]  # fmt: skip
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.remote_env
def test_a_constant_gain_has_a_difference_without_spread_though_both_scores_vary():
    base = [float(i % 2) / 2 for i in range(60)]
    columns = [column([v + 0.25 for v in base]), column(base)]
    _, difference = intervals.summarise(columns, intervals.Settings())
    assert difference["f1"] == pytest.approx({"value": 0.25, "low": 0.25, "high": 0.25})


@pytest.mark.remote_env
def test_loss_is_the_mean_over_tokens_not_over_rows():
    scores = column([0.0, 0.0], totals=[10.0, 1.0], tokens=[10, 2])
    loss = intervals.summarise([scores], intervals.Settings())[0][0]["loss"]
    assert loss["value"] == pytest.approx(11 / 12)


@pytest.mark.remote_env
@pytest.mark.filterwarnings("error")
def test_rows_without_a_supervised_token_leave_the_loss_a_number_or_unknown():
    one = column([0.0, 1.0], totals=[6.0, 0.0], tokens=[3, 0])
    none = column([0.0, 1.0], totals=[0.0, 0.0], tokens=[0, 0])
    (known, unknown), difference = intervals.summarise([one, none], intervals.Settings())
    assert known["loss"] == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert unknown["loss"] == difference["loss"] == {"value": None, "low": None, "high": None}
    json.dumps([known, unknown, difference], allow_nan=False)


def test_a_loss_that_is_no_number_ends_the_evaluation_and_a_missing_one_is_left_out(capsys):
    from evaluation import measurement
    from kit import console

    with pytest.raises(console.Problem, match="the loss of the adapter is not a number for 1 of 2"):
        measurement.checked_losses(
            {"loss_total": [1.0, math.nan], "loss_tokens": [2, 2]}, "adapter"
        )
    none = {"loss_total": [0.0], "loss_tokens": [0]}
    assert measurement.checked_losses(none, "adapter") == {}
    assert "no answer begins within data.max_length" in capsys.readouterr().err
