"""Prepared rows of what data_prep.py was given: files, a collection, or generated dialogues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from corpus.preparation import Preparation, PreparedRows
from corpus.sources import recipes
from kit import console
from kit.moving_line import MovingLine


def of_files(root: Path, config, recipe: str | None, without: Path) -> PreparedRows:
    """The rows of the file `root`, or of the files below it; `without`: our own output folder."""
    preparation = Preparation(config)
    sources, skipped = recipes.find_sources(root, config, recipe, without=without)
    for reject in skipped:
        console.warn(f"{reject.line()}: not read")
    preparation.result.rejects += skipped
    with console.progress(None, "reading", unit="rows", delay=2) as bar:
        for source in sources:
            console.note(f"    {source.name}: recipe {source.recipe_name}")
            items = _counted(recipes.rows(source, config), bar)
            preparation.add(source.name, source.recipe_name, items)
    return _finished(preparation)


def _counted(items: Iterable[Any], bar: Any) -> Iterator[Any]:
    """The items, each shown by the bar."""
    for item in items:
        yield item
        bar.update()


def _finished(preparation: Preparation) -> PreparedRows:
    with MovingLine("looking for near-duplicates, counting tokens, splitting"):
        result = preparation.finish()
    for loss in result.losses:
        console.warn(loss)
    return result


def of_collection(config, recipe: str | None, store: str | None) -> PreparedRows:
    """Questions on the passages of the Chroma collection that `documents` names."""
    preparation = Preparation(config)
    preparation.add(*recipes.collection(config, recipe, store))
    return _finished(preparation)


def of_generated(config, recipe: str | None) -> PreparedRows:
    """Generated weather dialogues."""
    preparation = Preparation(config)
    preparation.add(*recipes.generated(config, recipe))
    return _finished(preparation)
