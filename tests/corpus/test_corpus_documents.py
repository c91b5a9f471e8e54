"""Documents are read whole: books without their licence, pages without menus, PDFs page by page."""

from __future__ import annotations

import json
import re

import pytest

from corpus.documents import html_pages, passages, pdf_pages, questions, reading
from corpus.rows import Document, Reject


def read(path, kind: str = "text") -> list:
    return list(reading.read(path, path.name, kind))


# --- books ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("148-8_franklin_autobiography_cp1252.txt", "The Autobiography of Benjamin Franklin"),
        ("245-0_life_on_the_mississippi_utf8bom.txt", "Life On The Mississippi, Complete"),
        ("3177_roughing_it_ascii.txt", "Roughing It"),
    ],
)
def test_a_gutenberg_book_is_the_text_between_its_markers(samples, name, title):
    expected = json.loads((samples / "gutenberg/expected_boundaries.json").read_text())[name]
    (book,) = read(samples / "gutenberg" / name)
    lines = [line.rstrip() for line in book.text.rstrip().split("\n")]
    assert lines[-len(expected["last_body_lines"]) :] == expected["last_body_lines"]
    for forbidden in expected["must_not_contain"]:
        assert forbidden not in book.text
    assert book.title == title
    assert "\ufeff" not in book.text and "\r" not in book.text


def test_a_book_that_mentions_project_gutenberg_is_not_cut_there(samples):
    (book,) = read(samples / "gutenberg/148-8_franklin_autobiography_cp1252.txt")
    assert "the book in Project Gutenberg. The Detailed Notes Section" in book.text


def test_text_without_markers_comes_back_as_it_is():
    assert reading.strip_gutenberg("*** Chapter one ***\nIt began.") == (
        "*** Chapter one ***\nIt began.", None)  # fmt: skip


# --- encodings --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_is_read_in_the_encodings_that_books_come_in(tmp_path, encoding):
    path = tmp_path / "book.txt"
    path.write_bytes("Naïve “quotes” are in here.\r\nNext line.".encode(encoding))
    (book,) = read(path)
    assert book.text == "Naïve “quotes” are in here.\nNext line."


@pytest.mark.parametrize(
    "data", [b"", b"  \n\n", b"\x00\x01\x02" * 100, "Привет, мир".encode("koi8-r")]
)
def test_an_empty_a_binary_and_a_wrongly_encoded_file_are_reported(tmp_path, data):
    path = tmp_path / "book.txt"
    path.write_bytes(data)
    (reject,) = read(path)
    assert isinstance(reject, Reject) and reject.bad
    assert ";" in reject.detail  # a remedy follows


# --- encyclopaedias -----------------------------------------------------------------------------


def test_every_article_of_a_wikiextractor_file_is_one_document(samples):
    articles = read(samples / "wiki/enwiki_wikiextractor_AA_wiki_00")
    assert len(articles) == 37
    assert articles[0].title == "Anarchism"
    assert articles[0].text.startswith("Anarchism is an anti-authoritarian")


def test_each_redirect_page_is_reported_and_none_is_dropped_silently(samples):
    items = read(samples / "wiki/zhwiki_wikiextractor_AA_wiki_00")
    redirects = [i for i in items if isinstance(i, Reject)]
    assert len(items) == 1138
    assert {r.reason for r in redirects} == {"redirect page"} and len(redirects) == 417
    assert not any(r.bad for r in redirects)


def test_an_article_that_is_not_closed_is_reported(tmp_path):
    path = tmp_path / "wiki_00"
    path.write_text(
        '<doc id="1" url="u" title="A">\nA\n\nText.\n</doc>\n<doc id="2" url="u" title="B">\n'
    )
    first, broken = read(path)
    assert first.text == "Text." and broken.bad


# --- web pages --------------------------------------------------------------------------------


def test_the_segments_of_real_pages_score_at_least_0_90(samples):
    pages = json.loads((samples / "html/evaldata_subset.json").read_text(encoding="utf-8"))
    hits = missed = wrong = 0
    for page in pages.values():
        _, text = html_pages.article((samples / "html/pages" / page["file"]).read_bytes())
        hits += sum(segment in text for segment in page["with"])
        missed += sum(segment not in text for segment in page["with"])
        wrong += sum(segment in text for segment in page["without"])
    assert 2 * hits / (2 * hits + missed + wrong) >= 0.90


def test_a_page_without_article_gives_its_text_without_menu_and_script(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        "<html><head><title>Note</title><script>var x</script></head>"
        "<body><nav>Menu</nav><p>Hi.</p></body></html>"
    )
    (page,) = read(path, "html")
    assert page.title == "Note"
    assert page.text == "Hi."


CODE = "def f(x):\n    for i in range(x):\n        print(i)\n\n\n    return x"


@pytest.mark.parametrize(
    "block",
    ["<pre><code>{}</code></pre>", "<listing>{}</listing>", "<code>{}</code>",
     "<div style='white-space: pre-wrap'>{}</div>"],
)  # fmt: skip
def test_the_white_space_of_preformatted_text_in_a_page_stays(tmp_path, block):
    sentence = (
        "This page explains how a loop is written, with an example that everybody can follow. "
    )
    path = tmp_path / "page.html"
    path.write_text(
        f"<html><body><article><h1>Loops</h1><p>{sentence * 2}</p>{block.format(CODE)}"
        f"<p>{sentence * 2} Call <code>f(2\n  )</code> so.</p></article></body></html>"
    )
    (page,) = read(path, "html")
    assert f"```\n{CODE}\n```" in page.text
    assert re.search(r"Call f\(2\s+\) so", page.text), "code within a sentence stays there"
    assert CODE in passages.passages(page.text, 1200)[0]
    assert questions.ask(page.text, "Loops", questions.Terms([page.text])) is not None


def test_lines_of_code_and_verse_stay_lines_and_wrapped_prose_becomes_one():
    text = f"A paragraph\nthat is wrapped.\n\n{CODE.split(chr(10) * 2)[0]}\n\nThe end."
    lines = ["A paragraph that is wrapped.", *CODE.split("\n")[:3], "The end."]
    assert passages.passages(text, 1200) == ["\n".join(lines)]
    long = "\n".join(f"    line {n} of the code" for n in range(40))
    cut = passages.passages(f"```\n{long}\n```", 300)
    assert max(map(len, cut)) <= 300
    assert "\n".join(cut) == f"```\n{long}\n```"


def test_a_page_without_any_text_is_reported(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<html><body><script>render()</script></body></html>")
    (reject,) = read(path, "html")
    assert reject.reason == "no text"


# --- PDF --------------------------------------------------------------------------------------


def test_pages_and_characters_of_real_pdfs_are_those_that_poppler_counts(samples):
    facts = json.loads((samples / "legal/expected_pdf_facts.json").read_text())
    import pypdfium2

    for name, fact in facts.items():
        with pypdfium2.PdfDocument(samples / "legal" / name) as pdf:
            pages = [pdf_pages._text(page) for page in pdf]
        assert len(pages) == fact["pages"]
        for page, expected in zip(pages, fact["nonspace_chars_per_page"], strict=True):
            assert abs(sum(not c.isspace() for c in page) - expected) <= 0.01 * expected + 2


def test_a_scan_without_text_layer_is_one_report_with_its_remedy(samples):
    (reject,) = read(samples / "legal/scanned_image_only_1page.pdf", "pdf")
    assert reject.reason == "no text layer" and "ocrmypdf" in reject.detail


def test_empty_pages_of_a_pdf_are_reported_beside_the_others(samples):
    items = read(samples / "legal/scotus_slip_opinion_2012_vector.pdf", "pdf")
    assert [i.number for i in items if isinstance(i, Reject)] == [29, 30]
    assert [i.page for i in items if isinstance(i, Document)] == list(range(1, 29))


def test_the_stamp_of_the_court_on_each_page_is_left_out(samples):
    pages = read(samples / "legal/ca5_21-50498_opinion_2022.pdf", "pdf")
    assert not any("Date Filed" in page.text for page in pages)
    assert "Benefits Summary" in pages[1].text


@pytest.mark.parametrize("data", [b"", b"%PDF-1.4 cut off"])
def test_a_pdf_that_cannot_be_opened_is_reported(tmp_path, data):
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    (reject,) = read(path, "pdf")
    assert reject.bad and ";" in reject.detail


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.pdf", b"", "pdf"),
        ("download", b"%PDF-1.7\n", "pdf"),
        ("a.HTM", b"<p>x", "html"),
        ("page", b"\n<!DOCTYPE html><html>", "html"),
        ("wiki_00", b"<doc id=", "text"),
        ("notes.md", b"# Notes", "text"),
        ("table.csv", b"a,b", None),
        ("photo.jpg", b"\xff\xd8\xff\x00\x00", None),
    ],
)
def test_the_kind_of_a_file_is_seen_from_its_bytes_and_name(tmp_path, name, data, kind):
    (tmp_path / name).write_bytes(data)
    assert reading.kind_of(tmp_path / name) == kind


# --- passages and questions ---------------------------------------------------------------------


def test_passages_keep_every_word_in_order_and_stay_within_the_limit(samples):
    (book,) = read(samples / "gutenberg/3177_roughing_it_ascii.txt")
    cut = passages.passages(book.text, 1200)
    assert max(map(len, cut)) <= 1200
    assert " ".join(cut).split() == book.text.split()


def test_neighbouring_passages_share_whole_words(samples):
    (book,) = read(samples / "gutenberg/3177_roughing_it_ascii.txt")
    cut = passages.passages(book.text, 1200, overlap=150)
    assert max(map(len, cut)) <= 1200
    shared = 0
    for before, after in zip(cut, cut[1:], strict=False):
        shared += any(before.endswith(after[:n]) for n in range(40, 151))
    assert shared > 0.95 * (len(cut) - 1)


def test_a_word_longer_than_the_limit_is_cut_and_not_lost():
    assert "".join(passages.passages("x" * 1000, 300)) == "x" * 1000


def test_an_abbreviation_does_not_end_a_sentence():
    text = "Mr. Smith v. Jones was decided in the U.S. Court. It held. See No. 5."
    assert passages.sentences(text) == [
        "Mr. Smith v. Jones was decided in the U.S. Court.", "It held.", "See No. 5."]  # fmt: skip


def test_every_answer_is_a_quotation_and_holds_the_topic(samples):
    articles = read(samples / "wiki/enwiki_wikiextractor_AA_wiki_00")[:8]
    cut = [(a.title, text) for a in articles for text in passages.passages(a.text, 1200)]
    terms = questions.Terms(text for _, text in cut)
    asked = [(text, questions.ask(text, title, terms)) for title, text in cut]
    made = [(text.replace("\n", " "), q) for text, q in asked if q is not None]
    assert len(made) > 0.9 * len(cut)
    for text, q in made:
        assert q.answer in text and q.topic in q.answer and q.topic in q.question
        assert all(part in text for part in passages.sentences(q.explanation))


def test_a_sentence_that_defines_is_asked_with_what_is():
    text = "It rained a lot. The albedo is a measure of how much light a surface reflects back."
    asked = questions.ask(text, "Light", questions.Terms([text]))
    assert asked.question == "What is the albedo?"
    assert asked.answer.startswith("The albedo is a measure")


def test_a_passage_is_halved_at_a_sentence_end_and_nothing_is_lost():
    text = "One is here now. Two is here.\nThree is here too. Four."
    begin, end = questions.halves(text)
    assert (begin, end) == ("One is here now. Two is here.", "Three is here too. Four.")
    assert questions.halves("Only one sentence") is None
