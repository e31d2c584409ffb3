"""The recipe of all sources: it is valid as it stands, names every kind of source, and leaves no stage out."""

import importlib
from pathlib import Path
from typing import Any, get_args

from data_jobs import collect
from starloom.recipe import load_recipe
from starloom.step import Step

RECIPE = Path(__file__).resolve().parents[2] / "platform" / "recipes" / "mixed-sources.toml"


def steps() -> dict[str, Step]:
    return {entry.name: importlib.import_module(entry.run).STEP for entry in load_recipe(str(RECIPE)).steps}


def test_recipe_names_every_kind_of_source_but_the_standard_library() -> None:
    settings: Any = next(entry.config for entry in load_recipe(str(RECIPE)).steps if entry.name == "collected")
    union = get_args(collect.AnySource)[0]
    kinds = {source.model_fields["kind"].default for source in get_args(union)}
    assert {source["kind"] for source in settings["sources"]} == kinds - {"python-stdlib"}


def test_each_stage_reads_all_decisions_before_it_and_the_corpus_applies_every_one() -> None:
    made = steps()
    before: list[str] = []
    for entry in load_recipe(str(RECIPE)).steps:
        if made[entry.name].produces in ("decisions", "corpus"):
            assert list(entry.needs) == before
        if made[entry.name].produces in ("collected", "decisions"):
            before.append(entry.name)
    assert before == ["collected", "allowed", "quality", "duplicates", "clean", "redacted"]
