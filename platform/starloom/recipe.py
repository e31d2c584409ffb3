"""Recipes: a whole run as a list of steps, and the state of each step."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from starloom import storage
from starloom.artifact import MANIFEST, Artifact, find, fingerprint_of, manifests
from starloom.config import Config, parse_value, read_toml, set_key, validate
from starloom.errors import UserError
from starloom.lease import is_held
from starloom.plugins import installed, look_beside
from starloom.program import load_step
from starloom.step import SourceState, Step

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class StepEntry(Config):
    """One ``[[steps]]`` of a recipe."""

    name: str
    run: str
    needs: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    retries: int = Field(0, ge=0)  # of a step that failed; one whose node was lost is run again in any case

    @field_validator("run")
    @classmethod
    def _its_module(cls, run: str) -> str:
        return installed("steps").get(run, run)

    @field_validator("name")
    @classmethod
    def _usable_as_a_folder(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("a step's name becomes a folder: use letters, digits, '-', '_' and '.'")
        return name


class Recipe(Config):
    """A named list of steps with a root folder; each step needs only earlier ones or artifacts given by path."""

    name: str
    root: str
    labels: dict[str, str] = {}  # for people: in the manifests, and in no fingerprint
    steps: tuple[StepEntry, ...]

    @model_validator(mode="after")
    def _steps_in_order(self) -> "Recipe":
        if not self.steps:
            raise ValueError("the recipe has no [[steps]]; add at least one")
        seen: list[str] = []
        for step in self.steps:
            if step.name in seen:
                raise ValueError(f"two steps are named {step.name!r}; rename one")
            for need in step.needs:
                if "/" not in need and need not in seen:
                    raise ValueError(f"step {step.name!r} needs {need!r}, which is no earlier step; earlier: {seen}")
            seen.append(step.name)
        return self

    def step(self, name: str) -> StepEntry:
        """The step of that name; `UserError` lists the names there are."""
        for step in self.steps:
            if step.name == name:
                return step
        raise UserError(f"{name!r} is no step of the recipe {self.name!r}; its steps: {', '.join(self.names)}")

    @property
    def names(self) -> list[str]:
        """The names of the steps, in order."""
        return [step.name for step in self.steps]


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with Starloom, by name."""
    here = Path(__file__).resolve().parent
    # beside the package in a checkout, inside it in a wheel
    places = (here.parent / "recipes", here / "recipes")
    return {path.stem: path for place in places if place.is_dir() for path in sorted(place.glob("*.toml"))}


def load_recipe(
    location: str, *, root: str | None = None, assignments: Sequence[str] = (), labels: Sequence[str] = ()
) -> Recipe:
    """Read a recipe by path, URL or built-in name; apply ``--root``, ``--set STEP.KEY=VALUE``, ``--label NAME=VALUE``.

    Raises:
        UserError: there is no such recipe, or it is wrong.
    """
    where = _where(location)
    settings = read_toml(where)
    if not storage.is_remote(where):
        look_beside(Path(where).parent)
    if root is not None:
        settings["root"] = root
    recipe = validate(Recipe, settings, where=where)
    for assignment in assignments:
        recipe = _with_assignment(recipe, assignment)
    named = {**recipe.labels, **dict(map(_label, labels))}
    return recipe.model_copy(update={"root": storage.usable_root(recipe.root), "labels": named})


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--label {text}: write NAME=VALUE")
    return name, value


def _where(location: str) -> str:
    """The path or URL of a recipe's file."""
    if storage.is_remote(location) or Path(location).exists():
        return location
    builtin = builtin_recipes()
    if location not in builtin:
        known = ", ".join(builtin)
        raise UserError(f"{location}: no such recipe; give a TOML file or one of: {known}")
    return str(builtin[location])


def written_root(location: str) -> str:
    """The root as a recipe's text has it, before it is made absolute.

    Raises:
        UserError: there is no such recipe, or it is wrong.
    """
    return str(read_toml(_where(location)).get("root", ""))


def _with_assignment(recipe: Recipe, assignment: str) -> Recipe:
    target, separator, text = assignment.partition("=")
    step_name, dot, key = target.partition(".")
    if not separator or not dot or not key:
        raise UserError(f"--set {assignment}: write --set STEP.KEY=VALUE, for example --set corpus.seed=1")
    changed = recipe.step(step_name)
    settings = changed.model_dump(mode="python")["config"]
    set_key(settings, key, parse_value(text))
    steps = tuple(
        step.model_copy(update={"config": settings}) if step.name == step_name else step for step in recipe.steps
    )
    return recipe.model_copy(update={"steps": steps})


class State(StrEnum):
    """What there is of a step."""

    DONE = "done"
    STALE = "stale"  # finished once, with another config or other inputs
    UNFINISHED = "unfinished"  # begun with this very config; a run goes on from there
    RUNNING = "running"
    MISSING = "missing"


@dataclass(frozen=True)
class CheckedStep:
    """A step of a recipe whose module and settings are right."""

    entry: StepEntry
    step: Step
    config: Config


@dataclass(frozen=True)
class StepStatus:
    """A step of a recipe with everything resolved."""

    entry: StepEntry
    step: Step
    config: Config
    source: SourceState | None
    fingerprint: str
    folder: str
    needs: tuple[str, ...]  # exact: STEP/FINGERPRINT below the root, or a path
    state: State
    artifact: Artifact | None


def check(recipe: Recipe) -> list[CheckedStep]:
    """Every step with its module and its validated settings; sources and artifacts are not looked at.

    Raises:
        UserError: the first thing that is wrong with the recipe itself.
    """
    checked: dict[str, CheckedStep] = {}
    for entry in recipe.steps:
        step = load_step(entry.run)
        config = validate(step.config, entry.config, where=f"recipe {recipe.name}, step {entry.name}")
        kinds = [checked[need].step.produces for need in entry.needs if need in checked]
        _fits(recipe, entry, step, kinds, whole=len(kinds) == len(entry.needs))
        checked[entry.name] = CheckedStep(entry, step, config)
    return list(checked.values())


def _fits(recipe: Recipe, entry: StepEntry, step: Step, kinds: Sequence[str], *, whole: bool) -> None:
    wrong = step.misfit(kinds, whole=whole)
    if wrong:
        raise UserError(f"recipe {recipe.name}, step {entry.name}: {entry.run} {wrong}")


def resolve(recipe: Recipe) -> list[StepStatus]:
    """Validate every step and find out what is done. Starts nothing and imports neither Ray nor torch.

    Raises:
        UserError: the first thing that is wrong with the recipe, before any work.
    """
    resolved: dict[str, StepStatus] = {}
    for checked in check(recipe):
        entry, step, config = checked.entry, checked.step, checked.config
        inputs, needs = [], []
        for need in entry.needs:
            if need in resolved:
                earlier = resolved[need]
                inputs.append((earlier.step.produces, earlier.fingerprint))
                needs.append(f"{need}/{earlier.fingerprint}")
            else:
                outside = find(recipe.root, need)
                inputs.append((outside.kind, outside.fingerprint))
                needs.append(need)
        _fits(recipe, entry, step, [kind for kind, _ in inputs], whole=True)
        source = SourceState.of(config, step.ask_source(config)) if step.source_state else None
        fingerprint = fingerprint_of(step.identity(config, inputs, source))
        fingerprint = _earlier(recipe.root, checked, inputs, fingerprint) or fingerprint
        folder = storage.join(recipe.root, entry.name, fingerprint)
        state, artifact = _state(recipe.root, entry.name, folder)
        resolved[entry.name] = StepStatus(
            entry, step, config, source, fingerprint, folder, tuple(needs), state, artifact
        )
    return list(resolved.values())


def _earlier(root: str, checked: CheckedStep, inputs: Sequence[tuple[str, str]], fingerprint: str) -> str | None:
    """The fingerprint of what was finished while the same sources were told in another form; None where nothing was."""
    entry, step, config = checked.entry, checked.step, checked.config
    if step.earlier_states is None or not storage.folders(storage.join(root, entry.name)):
        return None
    if storage.exists(storage.join(root, entry.name, fingerprint, MANIFEST)):
        return None
    for state in step.earlier_states(config):
        earlier = fingerprint_of(step.identity(config, inputs, SourceState.of(config, state)))
        if storage.exists(storage.join(root, entry.name, earlier, MANIFEST)):
            return earlier
    return None


def latest(recipe: Recipe) -> list[Artifact]:
    """What is finished of each step, in order: the newest of the last step, what that was made from, and so on.

    Neither settings nor sources are asked: what a run has left can be read after they have changed, or elsewhere.
    """
    pinned: dict[str, str] = {}
    found: list[Artifact] = []
    for entry in reversed(recipe.steps):
        done = manifests(recipe.root, entry.name)
        if not done:
            continue
        wanted = storage.join(recipe.root, entry.name, pinned.get(entry.name, ""))
        chosen = Artifact.open(wanted if wanted in done else done[-1])
        found.insert(0, chosen)
        for origin in chosen.manifest.inputs:
            pinned.setdefault(origin.step, origin.fingerprint)
    return found


def _state(root: str, name: str, folder: str) -> tuple[State, Artifact | None]:
    if storage.exists(storage.join(folder, MANIFEST)):
        return State.DONE, Artifact.open(folder)
    if storage.exists(folder):
        return (State.RUNNING if is_held(folder) else State.UNFINISHED), None
    base = storage.join(root, name)
    others = (storage.join(base, other, MANIFEST) for other in storage.folders(base))
    return (State.STALE if any(storage.exists(other) for other in others) else State.MISSING), None
