"""Which recipe of data_config.yaml reads which file, and the rows that it makes of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from config.schemas.data import FIELD
from corpus import formats
from corpus.documents import passages, questions, reading
from corpus.fields import Fields, is_empty, kind_of
from corpus.rows import BadRow, Document, Reject, Row, Unwanted
from corpus.sources import file_kinds, readers, source_files
from kit import console

KEYS = "rename them as docs/DATA.md says, or --set recipes.NAME= a recipe with user and assistant"


class Source(NamedTuple):
    """One file and the recipe that reads it. `name` is how messages and rows call the file."""

    name: str
    path: Path
    recipe_name: str
    recipe: Any  # config.schemas.data.RecipeSection


def find_sources(
    root: Path, config, forced: str | None = None, without: Path | None = None
) -> tuple[list[Source], list[Reject]]:
    """The files below `root` (or `root` itself) with their recipes, and the files that none reads.

    Hidden files and everything below `without` (our own output) are left out. Raises Misuse where
    `root` is missing, Problem where nothing in it can be read.
    """
    if not root.exists():
        raise console.Misuse(f"{root}: no such file or folder", "check --input (RAW= of make)")
    recipes = _recipes(config, forced)
    if not root.is_dir():
        return [_one_file(root, recipes, by_name=forced is None)], []
    files, others = source_files.below(root)
    if without is not None:
        files = [p for p in files if without.resolve() not in p.resolve().parents]
    skipped = [_skip(_name(path, root), why) for path, why in others]
    if not files:
        listed = "; ".join(r.line() for r in skipped[:3])
        text = f"no files there ({listed})" if listed else "the folder is empty"
        raise console.Problem(f"{root}: {text}", "put your raw files there")
    sources = []
    for path in files:
        shown = _name(path, root)
        name, why = None, source_files.about_the_data(path, files)
        if not why:
            name, why = _choose(path, recipes)
        if name is None:
            skipped.append(_skip(shown, why))
        else:
            sources.append(Source(shown, path, name, recipes[name]))
    sources, held = _without_held_out(sources, files)
    skipped += held
    if not sources:
        skipped.sort(key=lambda reject: ";" not in reject.detail)  # those with a remedy first
        first = f"{skipped[0].source}: {skipped[0].detail}"
        raise console.Problem(
            f"{root}: none of its {len(files)} files can be read ({first})",
            KEYS if "its keys" in first else "see docs/DATA.md for the formats",
        )
    return sources, skipped


def _one_file(file: Path, recipes: dict[str, Any], by_name: bool) -> Source:
    """The file that was given itself; Misuse or Problem where no recipe reads it."""
    if why := source_files.irregular(file):
        raise console.Misuse(f"{file}: {why}", "give a file, or a folder of files")
    name, why = _choose(file, recipes, by_name=by_name)
    if name is None:
        remedy = KEYS if why.startswith("its keys") else "name a recipe with --recipe"
        raise console.Problem(f"{file}: {why}", remedy)
    return Source(console.printable_name(file.name), file, name, recipes[name])


def _without_held_out(
    sources: list[Source], files: list[Path]
) -> tuple[list[Source], list[Reject]]:
    """(the sources to train on, a Reject for each file whose name says test or validation)."""
    kept, held = [], []
    for source in sources:
        side = source_files.held_out(source.path, files, source.recipe.kind in ("csv", "jsonl"))
        if side and source.recipe.kind not in ("pdf", "html"):
            why = f"a {side} file by its name; --input {source.path} alone reads it all the same"
            held.append(_skip(source.name, why))
        else:
            kept.append(source)
    return kept, held


def _name(path: Path, root: Path) -> str:
    return console.printable_name(path.relative_to(root).as_posix())


def _skip(name: str, why: str) -> Reject:
    return Reject(name, 0, "skipped", why, bad=False)


def _recipes(config, forced: str | None) -> dict[str, Any]:
    files = {n: r for n, r in config.recipes.items() if r.kind not in ("chroma", "generated")}
    if forced is None:
        return files
    if forced not in files:
        raise console.Misuse(
            f"--recipe {forced}: data_config.yaml has no such recipe for files",
            f"it has {', '.join(files)}",
        )
    return {forced: files[forced]}


def _choose(path: Path, recipes: dict, by_name: bool = True) -> tuple[str | None, str]:
    """(recipe's name, '') or (None, why no recipe reads the file)."""
    named = {
        name: r
        for name, r in recipes.items()
        if not by_name or any(fnmatch.fnmatch(path.name, g) for g in r.globs)
    }
    if not named:
        with open(path, "rb") as f:
            head = f.read(readers.SNIFF)
        pointer = readers.lfs_pointer(head)
        what = f"{pointer}; {readers.LFS_REMEDY}" if pointer else file_kinds.describe(path, head)
        kind = "a binary file; " if readers.looks_binary(head) else ""
        return None, what or f"{kind}no recipe's glob fits the name"
    why = ""
    for name, recipe in named.items():
        why = _misfit(path, recipe)
        if not why:
            return name, ""
    return None, why


def _misfit(path: Path, recipe) -> str:
    """'' where the recipe can read the file, or where reading it will say what is broken."""
    if recipe.kind not in ("csv", "jsonl") or readers.is_unreadable(path):
        return ""
    head = readers.first_records(path, recipe.kind, recipe.encoding)
    if not head:
        return ""
    if recipe.user is not None:
        missing = [c for c in recipe.columns if c not in head[0]]
        return f"no column {', '.join(missing)}" if missing else ""
    if any(formats.format_of(record) for record in head):
        return ""
    keys = ", ".join(map(str, list(head[0])[:8]))
    return f"its keys ({keys}) are of no known row format"


def rows(source: Source, config) -> Iterator[Row | Reject]:
    """The source's rows, with their place in it."""
    if source.recipe.kind in ("csv", "jsonl"):
        items = _from_records(source)
    else:
        items = _from_documents(source, config)
    for item in items:
        item.source = source.name
        if isinstance(item, Row) and not item.group:
            item.group = _group(item)
        yield item


def _group(row: Row) -> str:
    """Rows with the same question stay on one side of the split."""
    return next((" ".join(m["content"].split()).casefold()
                 for m in row.messages if m["role"] == "user"), "")  # fmt: skip


# --- tables and JSON --------------------------------------------------------------------------


def _from_records(source: Source) -> Iterator[Row | Reject]:
    recipe = source.recipe
    for item in readers.records(
        source.path, source.name, recipe.kind, recipe.encoding, source.recipe_name
    ):
        if isinstance(item, Reject):
            yield item
            continue
        number, record = item
        try:
            for row in _convert(record, recipe):
                row.number = number
                yield row
        except BadRow as error:
            yield Reject(source.name, number, error.reason, error.detail, record=record)
        except Unwanted as error:
            yield Reject(source.name, number, str(error), bad=False, record=record)


def _convert(record: Any, recipe) -> list[Row]:
    if recipe.user is None:
        _refuse_held_out(record)
        return formats.rows_of(record)
    if not isinstance(record, dict):
        raise BadRow("not an object", f"a JSON {type(record).__name__}")
    return [_fill_row(record, recipe)]


def _refuse_held_out(record: Any) -> None:
    """Raise Unwanted for a row of a mixed file that its key `split` holds out of training."""
    split = record.get("split") if isinstance(record, dict) else None
    side = source_files.SIDES.get(split.casefold()) if isinstance(split, str) else None
    if side:
        raise Unwanted(f"held out by its key split ({side})")


def _fill_row(record: dict[str, Any], recipe) -> Row:
    """The row that a recipe's templates make of a record's columns."""
    fields = Fields(record)

    def fill(template: str) -> str:
        return FIELD.sub(lambda column: field(column[1]), template)

    def field(name: str) -> str:
        if name not in record:
            raise BadRow("no such column", f"{{{name}}}; there are {', '.join(record)}")
        value = _cell(fields.take(name), name)
        if not value:
            raise Unwanted(f"empty {name}")
        known = recipe.values.get(name)
        if known is not None and value not in known:
            raise Unwanted(f"{name} {value[:30]!r} has no value in the recipe")
        return known[value] if known is not None else value

    messages = [{"role": "system", "content": fill(recipe.system)}] if recipe.system else []
    messages.append({"role": "user", "content": fill(recipe.user)})
    messages.append({"role": "assistant", "content": fill(recipe.assistant)})
    row = Row(messages, topic=fill(recipe.topic) if recipe.topic else None)
    row.unused = tuple(key for key in fields.unused() if key not in recipe.columns)
    return row


def _cell(value: Any, name: str) -> str:
    """A cell as a template shows it: spaces of one line joined, several lines as they are."""
    if is_empty(value):
        return ""
    if isinstance(value, dict | list):
        raise BadRow("not text", f"{name} is {kind_of(value)}")
    text = str(value).strip("\n")
    return text.rstrip() if "\n" in text else " ".join(text.split())


# --- documents --------------------------------------------------------------------------------


def _from_documents(source: Source, config) -> Iterator[Row | Reject]:
    recipe = source.recipe
    cut: list[tuple[Document, str]] = []
    for item in reading.read(
        source.path, source.name, recipe.kind, recipe.encoding, source.recipe_name
    ):
        if isinstance(item, Reject):
            yield item
        else:
            cut += [(item, text) for text in passages.passages(item.text, recipe.passage_chars)]
    terms = questions.Terms(text for _, text in cut)
    for number, (document, text) in enumerate(cut, 1):
        rows_of_it = list(_from_passage(text, document.title, recipe.styles, terms))
        if not rows_of_it:
            yield Reject(source.name, number, "nothing to ask in a passage", text[:60], bad=False)
        for row in rows_of_it:
            row.number, row.group = number, f"{source.name}\0{number}"
            yield row


def _from_passage(text: str, title: str, styles: list[str], terms) -> Iterator[Row]:
    halves = questions.halves(text) if "continuation" in styles else None
    if halves:
        yield questions.continuation(title, *halves)
    asked = questions.ask(text, title, terms) if {"qa", "instruction"} & set(styles) else None
    if asked:
        yield from questions.rows(asked, [style for style in styles if style != "rag"])


def collection(config, forced: str | None, folder: str | None) -> tuple[None, str, Iterator]:
    """(None, recipe name, rows) of the Chroma collection that `documents` names."""
    from corpus.documents import passage_store

    name, recipe = _of_kind("chroma", config, forced)
    target = passage_store.PassageStore(config.documents, folder)
    return None, name, _from_collection(target, recipe, config)


def _from_collection(target, recipe, config) -> Iterator[Row | Reject]:
    stored = list(target.passages())
    terms = questions.Terms(p.text for p in stored)
    asked = [(p, questions.ask(p.text, p.title, terms)) for p in stored]
    for p, question in asked:
        if question is None:
            reason = "nothing to ask in a passage"
            yield Reject(p.source, p.place + 1, reason, p.text[:60], bad=False)
    asked = [(p, question) for p, question in asked if question is not None]
    retrieved: list[list] = [[]] * len(asked)
    if "rag" in recipe.styles:
        texts = [question.question for _, question in asked]
        retrieved = target.search(texts, config.documents.top_k)
    for (p, question), hits in zip(asked, retrieved, strict=True):
        if hits and p not in hits:  # the answer must stand in what the model is shown
            hits[p.place % len(hits)] = p
        for row in questions.rows(question, recipe.styles, questions.numbered(hits)):
            row.source, row.number, row.group = p.source, p.place + 1, p.id
            yield row


# --- without files ----------------------------------------------------------------------------


def _of_kind(kind: str, config, forced: str | None) -> tuple[str, Any]:
    fitting = {n: r for n, r in config.recipes.items() if r.kind == kind}
    if forced is not None and forced not in fitting:
        raise console.Misuse(
            f"--recipe {forced}: no recipe of kind {kind} has that name",
            f"there are: {', '.join(fitting) or 'none'}; files need --input PATH",
        )
    if not fitting:
        raise console.Misuse(
            f"data_config.yaml has no recipe of kind {kind}", "add one, or give --input PATH"
        )
    name = forced or next(iter(fitting))
    return name, fitting[name]


def generated(config, forced: str | None) -> tuple[str, str, Iterator[Row]]:
    """(source name, recipe name, rows) of the generated recipe: weather dialogues."""
    from corpus.weather import dialogues

    name, recipe = _of_kind("generated", config, forced)

    def rows() -> Iterator[Row]:
        for number, talk in enumerate(dialogues.dialogues(recipe.size, config.seed), 1):
            row = Row(talk["messages"], talk["tools"], talk["topic"])
            row.source, row.number, row.group = dialogues.SOURCE, number, f"weather {number}"
            yield row

    return dialogues.SOURCE, name, rows()
