"""scripts/evaluation/page.py and curve.py: the report as a page of one file."""

import html.parser

import pytest

from adapters import metrics
from evaluation import curve, example_rows, page, score_report
from kit import jsonl


def measured(value, low=None, high=None):
    return {"value": value, "low": value if low is None else low, "high": high or value}


def body(**changes):
    names = ("exact_match", "f1", "rouge_l", "bleu", "loss")
    sides = {"prediction": "<b>42</b>", "exact_match": 0.0, "f1": 0.5, "rouge_l": 0.5}
    row = {"row": 3, "prompt": "a < b & c", "reference": "</td>", "model": sides, "base": sides}
    made = {
        "name": "<script>alert(1)</script>",
        "model": "adapters/runs/r1/final",
        "base_model": "models/mini",
        "dataset": {"path": "val.jsonl", "sha256": "0" * 64, "rows": 3},
        "metrics": {name: measured(0.5) for name in names},
        "base": {name: measured(0.25) for name in names},
        "difference": {name: measured(0.25, 0.1, 0.4) for name in names},
        "regressions": [row],
        "samples": [row],
        "bleu_signature": "nrefs:1",
        "created": "20261121-081530",
        "settings": {"metrics": {"confidence": 0.95}, "rag": {"collection": None}},
    }
    return made | changes


class Elements(html.parser.HTMLParser):
    """Tags that are open at the end, and every tag and address that was seen."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.addresses = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)


@pytest.fixture
def run(tmp_path):
    lines = [{"step": s, "loss": 2.0 - s / 10} for s in range(1, 11)]
    lines += [{"step": 5, "eval_loss": 1.7}, {"step": 10, "eval_loss": 1.4},
              {"step": 10, "loss": float("nan")}, {"step": 10, "train_loss": 1.5}]  # fmt: skip
    jsonl.write(tmp_path / "metrics.jsonl", lines)
    return tmp_path


def test_the_page_loads_nothing_runs_nothing_and_is_well_formed(run):
    text = page.render(body(), run)
    elements = Elements(text)
    assert elements.open == [] and elements.addresses == []
    assert not {"script", "link", "img", "iframe"} & set(elements.seen)
    assert "http" not in text and "@import" not in text and "url(" not in text


def test_what_models_and_rows_say_is_shown_and_not_interpreted(run):
    text = page.render(body(), run)
    assert "&lt;script&gt;alert(1)" in text and "<script>" not in text
    assert "&lt;b&gt;42&lt;/b&gt;" in text and "a &lt; b &amp; c" in text


@pytest.mark.parametrize(
    ("name", "cell", "words"),
    [
        ("f1", measured(0.2, 0.1, 0.3), "better"),
        ("f1", measured(-0.2, -0.3, -0.1), "worse"),
        ("f1", measured(0.2, -0.1, 0.3), "no clear difference"),
        ("loss", measured(-0.2, -0.3, -0.1), "better"),
        ("loss", measured(0.2, 0.1, 0.3), "worse"),
    ],
)
def test_the_verdict_follows_the_interval_and_the_metric_s_direction(name, cell, words):
    assert page.verdict(name, cell) == words


def test_retrieval_is_told_with_how_often_it_found_the_answer():
    assert "Retrieval" not in page.render(body(), None)
    settings = {"metrics": {"confidence": 0.95}, "rag": {"collection": "law", "top_k": 3},
                "retrieval": {"augmented": 4, "already": 0, "answer_found": 0.75}}  # fmt: skip
    text = page.render(body(settings=settings), None)
    assert "3 passages from law; an answer stands in those of 75% of the rows" in text


def test_the_curve_has_a_point_for_each_finite_loss(run):
    series = curve.read(run)
    assert series["training"][0] == (1, 1.9) and len(series["training"]) == 10
    assert series["validation"] == [(5, 1.7), (10, 1.4)]
    drawing = curve.svg(series)
    assert drawing.count("<circle") == 12
    assert "the lowest is 1.4000 at step 10" in drawing


def test_there_is_no_curve_for_one_point_or_none(tmp_path):
    assert curve.svg({"training": [(1, 2.0)], "validation": []}) == ""
    assert "<svg" not in page.render(body(), tmp_path)


def test_a_constant_loss_still_has_a_curve():
    assert "polyline" in curve.svg({"training": [(1, 0.5), (2, 0.5)], "validation": []})


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 190, [0, 50, 100, 150]), (1.34, 1.44, [1.34, 1.36, 1.38, 1.4, 1.42, 1.44]),
     (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)  # fmt: skip
def test_the_axis_has_round_numbers(low, high, marks):
    assert curve.ticks(low, high) == pytest.approx(marks)


class Column:
    def __init__(self, f1):
        self.predictions = [f"answer {value}" for value in f1]
        self.scores = metrics.Scores(dict.fromkeys(("exact_match", "f1", "rouge_l"), f1))


def test_regressions_are_the_rows_that_got_worse_the_worst_first():
    examples = [example_rows.Example(n, [], {}, [f"reference {n}"]) for n in range(1, 6)]
    adapter, base = Column([0.5, 0.2, 1.0, 0.0, 0.9]), Column([0.5, 0.4, 0.0, 1.0, 0.8])
    worse = score_report.regressions(examples, [adapter, base], 10)
    assert [row["row"] for row in worse] == [4, 2]
    assert worse[0]["base"]["prediction"] == "answer 1.0"
    assert len(score_report.regressions(examples, [adapter, base], 1)) == 1
    assert score_report.regressions(examples, [adapter], 10) == []


def test_two_reports_of_the_same_second_are_both_kept(tmp_path):
    for _ in range(2):
        score_report.write(body(name="a b/c"), tmp_path, None)
    stems = ("eval_a-b-c_20261121-081530", "eval_a-b-c_20261121-081530-2")
    wanted = {stem + suffix for stem in stems for suffix in (".json", ".html")}
    assert {path.name for path in tmp_path.iterdir()} == wanted


def test_what_is_not_known_or_was_not_measured_of_the_base_is_a_dash():
    """A base that answers with another tokenizer may have no loss where the model has one."""
    base = {k: v for k, v in body()["base"].items() if k != "loss"}
    difference = body()["difference"] | {"bleu": {"value": 0.1, "low": None, "high": None}}
    made = body(base=base, difference={k: v for k, v in difference.items() if k != "loss"})
    text = page.render(made, None)
    assert "<td>-</td><td>-</td>" in text and "+0.10 [-, -]" in text and "not known" in text
    last = score_report.table(made).splitlines()[-1].split()
    assert last == ["Loss", "0.5000", "[0.5000,", "0.5000]", "-", "-"]
