"""Prepared rows of what data_prep.py was given: files, a collection, or generated dialogues."""

from __future__ import annotations

from pathlib import Path

from corpus.preparation import Preparation, PreparedRows
from corpus.sources import recipes
from kit import console


def of_files(root: Path, config, recipe: str | None, without: Path) -> PreparedRows:
    """The rows of the file `root`, or of the files below it; `without`: our own output folder."""
    preparation = Preparation(config)
    sources, skipped = recipes.find_sources(root, config, recipe, without=without)
    for reject in skipped:
        console.warn(f"{reject.line()}: not read")
    preparation.result.rejects += skipped
    total = sum(s.path.stat().st_size for s in sources)
    with console.progress(total, "reading", unit="B", unit_scale=True, delay=2) as bar:
        for source in sources:
            console.note(f"    {source.name}: recipe {source.recipe_name}")
            preparation.add(source.name, source.recipe_name, recipes.rows(source, config))
            bar.update(source.path.stat().st_size)
    return preparation.finish()


def of_collection(config, recipe: str | None, store: str | None) -> PreparedRows:
    """Questions on the passages of the Chroma collection that `documents` names."""
    preparation = Preparation(config)
    preparation.add(*recipes.collection(config, recipe, store))
    return preparation.finish()


def of_generated(config, recipe: str | None) -> PreparedRows:
    """Generated weather dialogues."""
    preparation = Preparation(config)
    preparation.add(*recipes.generated(config, recipe))
    return preparation.finish()
