"""What users' files rest on, as one table: settings of steps, fingerprints of the built-in recipes, names of files.

``python -m tests.platform.frozen`` writes it anew. A change of it makes finished runs stale or breaks recipes: that is
then a decision, told in CHANGELOG.md, and not an accident.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from starloom import kinds, schema
from starloom.artifact import MANIFEST, fingerprint_of
from starloom.config import validate
from starloom.program import JobFile, load_step
from starloom.recipe import Recipe, StepEntry, builtin_recipes, load_recipe
from tests.platform.house import is_entry, modules

FROZEN = Path(__file__).with_name("frozen.json")


def surface() -> dict[str, Any]:
    """The table as it is now."""
    entries = sorted(name for name, module in modules().items() if is_entry(module))
    return {
        "steps": {name: _step(name) for name in entries},
        "recipes": {name: _fingerprints(name) for name in sorted(builtin_recipes())},
        "recipe": {one.__name__: sorted(one.model_fields) for one in (Recipe, StepEntry, JobFile)},
        "files": _files(),
        "columns": {
            name: {field.name: str(field.type) for field in getattr(schema, name)}
            for name in ("CORPUS", "DROPPED", "DECISIONS", "EDITS", "CLUSTERS")
        },
    }


def _step(name: str) -> dict[str, Any]:
    step = load_step(name)
    return {
        "config": step.config.__name__,
        "produces": step.produces,
        "version": step.version,
        "settings": _settings(step.config),
    }


def _settings(config: type[BaseModel]) -> dict[str, str]:
    found = {}
    for name, field in sorted(config.model_fields.items()):
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        kind = "runtime " if extra.get("starloom_runtime") else ""
        default = "required" if field.is_required() else f"= {_plain(field.default)}"
        found[name] = f"{kind}{default}"
    return found


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps([_plain(one) for one in value])
    return json.dumps(value.model_dump(mode="json") if isinstance(value, BaseModel) else value, sort_keys=True)


def _fingerprints(name: str) -> dict[str, str]:
    """Of each step as if its sources had no state: those of a user's machine are not ours to pin."""
    made: dict[str, tuple[str, str]] = {}
    for entry in load_recipe(name).steps:
        step = dataclasses.replace(load_step(entry.run), source_state=None)
        config = validate(step.config, entry.config, where=name)
        inputs = [made.get(need, ("outside", need)) for need in entry.needs]
        made[entry.name] = step.produces, fingerprint_of(step.identity(config, inputs))
    return {step: fingerprint for step, (_, fingerprint) in made.items()}


def _files() -> Mapping[str, Any]:
    views = (
        kinds.Collected, kinds.Decisions, kinds.Corpus, kinds.Tokenizer, kinds.Tokens, kinds.Model,
        kinds.Conversations, kinds.Evaluation, kinds.Report,
    )  # fmt: skip
    named = {
        view.kind: {key: value for key, value in sorted(vars(view).items()) if key.isupper() and isinstance(value, str)}
        for view in views
    }
    patterns = [kinds.data_file("*"), kinds.decisions_file("*"), kinds.edits_file("*"), kinds.DROPPED_FILE, MANIFEST]
    return {**named, "shards": patterns}


def main() -> None:
    """Write the table."""
    FROZEN.write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
