"""ingest_documents.py: every file reported, none stored twice, searches answered."""

from __future__ import annotations

import functools
import json
import os

import pytest

import data_prep
import ingest_documents

pytest_plugins = ("support.data_fixtures",)  # the fixture `inside`


@pytest.fixture
def run(inside, tmp_path):
    """Run ingest_documents.py on the collections in tmp_path/chroma."""
    return functools.partial(inside, ingest_documents, "--store", tmp_path / "chroma")


@pytest.fixture
def ingest(run):
    """The same with --json: returns (exit code, the object)."""

    def call(*arguments):
        done = run("--json", *arguments)
        return done.returncode, json.loads(done.stdout)

    return call


def statuses(answer: dict) -> dict[str, tuple[str, str]]:
    return {c["name"]: (c["status"], c["found"]) for c in answer["checks"]}


@pytest.mark.slow
def test_every_kind_of_document_goes_in_and_every_file_is_reported(ingest, samples, tmp_path):
    (tmp_path / "zero.pdf").touch()
    code, answer = ingest(samples / "legal", samples / "html/pages", samples / "gutenberg",
                        tmp_path / "zero.pdf")  # fmt: skip
    files = statuses(answer)
    assert code == 1  # for the empty PDF alone
    assert files["zero.pdf"] == ("fail", "unreadable")
    assert files["legal/scanned_image_only_1page.pdf"] == ("warn", "no text layer")
    assert files["legal/ca1_20-1507_opinion_2020.pdf"][1].startswith("17 pages, ")
    assert "2 × page without text" in files["legal/scotus_slip_opinion_2012_vector.pdf"][1]
    assert files["legal/eurlex_10_acts_structured.json"][0] == "warn"
    on_disk = [p for d in ("legal", "html/pages", "gutenberg") for p in (samples / d).iterdir()]
    assert len(files) == len(on_disk) + 1
    assert answer["collection"] == "pdf_docs" and answer["passages"] > 2000


@pytest.mark.slow
def test_a_second_run_changes_nothing(ingest, samples):
    first = ingest(samples / "html/pages")[1]
    code, again = ingest(samples / "html/pages")
    assert code == 0 and again["passages"] == first["passages"]
    assert set(statuses(again).values()) == {("ok", "unchanged")}


@pytest.mark.slow
def test_redirect_pages_are_counted_in_the_report_and_listed_where_asked(ingest, samples, tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    _, answer = ingest(samples / "wiki/zhwiki_wikiextractor_AA_wiki_00", "--rejects", rejects)
    ((_, text),) = statuses(answer).values()
    assert text.startswith("721 documents, ") and text.endswith("417 × redirect page")
    assert len(rejects.read_text(encoding="utf-8").splitlines()) == 417


def test_the_same_content_under_another_name_is_stored_once(ingest, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The same words in both files.")
    _, answer = ingest(tmp_path / "a.txt", tmp_path / "b.txt")
    assert answer["passages"] == 1
    assert statuses(answer)["b.txt"] == ("ok", "same content as a.txt")


def test_a_changed_file_and_another_passage_length_replace_what_was_stored(ingest, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("First version. " * 60)
    assert ingest(path)[1]["passages"] == 1
    path.write_text("Second version. " * 60)
    assert statuses(ingest(path)[1])["a.txt"] == ("ok", "1 document, 1 passage")
    shorter = ["--set", "documents.chunk_chars=400", "--set", "documents.chunk_overlap=0"]
    assert ingest(path, *shorter)[1]["passages"] == 3


def test_mojibake_and_entities_are_mended_on_the_way_in(ingest, tmp_path):
    (tmp_path / "a.txt").write_text("Itâ€™s R&amp;D about rivers.", encoding="utf-8")
    ingest(tmp_path / "a.txt")
    _, answer = ingest("--search", "rivers")
    assert answer["passages"][0]["text"] == "It’s R&D about rivers."


@pytest.mark.slow
def test_a_search_names_source_page_and_title_of_the_nearest_passages(
    ingest, command, samples, tmp_path
):
    ingest(samples / "legal")
    _, answer = ingest("--search", "Tarrant water permit Oklahoma Red River Compact")
    best = answer["passages"][0]
    assert len(answer["passages"]) == 3
    assert best["source"] == "legal/scotus_slip_opinion_2012_vector.pdf" and best["page"] > 0
    plain = command(
        "ingest_documents.py", "--store", tmp_path / "chroma", "--search", "Tarrant water"
    )
    assert "11-889 Tarrant Regional Water Dist. v. Herrmann" in plain.stdout


def test_another_embedder_for_the_same_collection_is_refused(ingest, run, samples, tmp_path):
    (tmp_path / "a.txt").write_text("Words.")
    ingest(tmp_path / "a.txt")
    model = samples / "models/semhash_model2vec_test_model"
    done = run(tmp_path / "a.txt", "--embedder", model)
    assert done.returncode == 2 and "was made with hashing" in done.stderr


def test_a_collection_goes_on_with_the_model_that_it_was_made_with(ingest, samples, tmp_path):
    (tmp_path / "a.txt").write_text("A big dog barked.")
    model = samples / "models/semhash_model2vec_test_model"
    assert ingest(tmp_path / "a.txt", "--embedder", model)[1]["embedder"].startswith("model2vec:")
    assert ingest("--search", "huge canine")[1]["passages"][0]["text"] == "A big dog barked."
    (tmp_path / "b.txt").write_text("Another text.")
    assert ingest(tmp_path / "b.txt")[1]["embedder"].startswith("model2vec:")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nowhere"], 2),
        (["."], 1),
        (["--search", "x"], 2),
        (["x", "--search", "y"], 2),
        ([""], 2),
    ],
)
def test_a_call_that_gives_nothing_to_do_is_one_line(run, tmp_path, arguments, code):
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "empty") if a == "." else a for a in arguments]
    done = run(*words)
    assert done.returncode == code
    assert len(done.stderr.strip().splitlines()) == 1 and ";" in done.stderr


def test_links_to_folders_and_pipes_are_reported_and_never_opened(ingest, run, tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.txt")
    assert run(root / "pipe.txt").returncode == 2
    assert "raw/linked: a link to a folder" in run(root).stderr
    (root / "a\nb.txt").write_text("A big dog barked.")
    code, answer = ingest(root)
    assert code == 0
    assert statuses(answer)["raw/linked"] == ("warn", "not read: a link to a folder, not followed")
    assert statuses(answer)["raw/pipe.txt"] == ("warn", "not read: no regular file")
    assert statuses(answer)["raw/a\\nb.txt"][0] == "ok"


def test_a_folder_as_the_file_of_rejects_is_a_misuse(run, tmp_path):
    (tmp_path / "a.txt").write_text("A big dog barked.")
    done = run(tmp_path / "a.txt", "--rejects", tmp_path)
    assert done.returncode == 2 and f"--rejects {tmp_path} is a folder; " in done.stderr


@pytest.mark.parametrize("damage", ["no database", "half of it", "a page"])
def test_a_damaged_collection_is_one_line(inside, run, tmp_path, damage):
    (tmp_path / "a.txt").write_text("A big dog barked.")
    assert run(tmp_path / "a.txt").returncode == 0
    whole = (tmp_path / "chroma" / "chroma.sqlite3").read_bytes()
    moved = tmp_path / "moved" / "chroma.sqlite3"  # Chroma keeps what it once opened
    moved.parent.mkdir()
    page = whole[:8192] + b"\xff" * 4096 + whole[12288:]
    kinds = {"no database": b"text" * 999, "half of it": whole[: len(whole) // 2], "a page": page}
    moved.write_bytes(kinds[damage])
    store = ("--store", moved.parent)
    for done in (
        inside(ingest_documents, *store, tmp_path / "a.txt"),
        inside(ingest_documents, *store, "--search", "dog"),
        inside(data_prep, *store, "--collection", "pdf_docs"),
    ):
        assert done.returncode == 1
        assert "chroma.sqlite3 is damaged (" in done.stderr and "; move its folder" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
