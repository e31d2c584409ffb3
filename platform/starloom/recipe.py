"""Recipes: a whole run as a list of steps, and the state of each step."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from starloom import storage
from starloom.alike import alternatives
from starloom.artifact import MANIFEST, Artifact, find, fingerprint_of, manifests, read_manifest
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


class AtEnd(Config):
    """Who is told when a run ends: a command, by its environment, and a URL, which is sent JSON."""

    command: tuple[str, ...] = ()
    url: str = ""
    url_variable: str = ""  # of the environment, for a URL that is a secret


class Recipe(Config):
    """A named list of steps with a root folder; each step needs only earlier ones or artifacts given by path."""

    name: str
    root: str
    at_once: int = Field(1, ge=1)  # steps that do not need each other; they share the cluster's processors and memory
    at_end: AtEnd = AtEnd()
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
    location: str,
    *,
    root: str | None = None,
    assignments: Sequence[str] = (),
    labels: Sequence[str] = (),
    at_once: int | None = None,
) -> Recipe:
    """Read a recipe by path, URL or built-in name; apply ``--root``, ``--set``, ``--label`` and ``--at-once``.

    Raises:
        UserError: there is no such recipe, or it is wrong.
    """
    where = _where(location)
    settings = read_toml(where)
    if not storage.is_remote(where):
        look_beside(Path(where).parent)
    if root is not None:
        settings["root"] = root
    if at_once is not None:
        settings["at_once"] = at_once
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


def resolve(
    recipe: Recipe, known: Mapping[str, StepStatus] | None = None, *, absent: Callable[[str], None] | None = None
) -> list[StepStatus]:
    """Validate every step and find out what is done. Starts nothing and imports neither Ray nor torch.

    `known` is what was found when a run began: what was done stays so, and sources are not asked again. Where `absent`
    is given, sources that are not here are taken to be what they were when their step was done last, and it is told so.

    Raises:
        UserError: the first thing that is wrong with the recipe, before any work.
    """
    known, resolved = known or {}, dict[str, StepStatus]()
    for checked in check(recipe):
        entry, step = checked.entry, checked.step
        found = known.get(entry.name)
        if found is None or found.state is not State.DONE:
            inputs = [_input(recipe.root, need, resolved) for need in entry.needs]
            _fits(recipe, entry, step, [kind for kind, _, _ in inputs], whole=True)
            if found is not None:  # what the sources were when the run began
                source = found.source
            else:
                source = _asked(recipe.root, checked, absent) if step.source_state else None
            found = _resolved(recipe.root, checked, inputs, source)
        resolved[entry.name] = found
    return list(resolved.values())


def _asked(root: str, checked: CheckedStep, absent: Callable[[str], None] | None) -> SourceState:
    """The state of a step's sources."""
    name, config = checked.entry.name, checked.config
    try:
        return SourceState.of(config, checked.step.ask_source(config))
    except UserError as error:
        if absent is None:
            raise
        for folder in reversed(manifests(root, name)):
            known = read_manifest(folder).provenance
            if known.get("config") == config.identity():
                absent(f"{name}: {error}; taken as it was when the step was done last")
                return SourceState.of(config, known.get("source"))
        raise


_Input = tuple[str, str, Artifact | None]  # kind, fingerprint, and what is finished of it


def _input(root: str, need: str, resolved: Mapping[str, StepStatus]) -> _Input:
    if need in resolved:
        earlier = resolved[need]
        return earlier.step.produces, earlier.fingerprint, earlier.artifact
    outside = find(root, need)
    return outside.kind, outside.fingerprint, outside


def _resolved(root: str, checked: CheckedStep, inputs: Sequence[_Input], source: SourceState | None) -> StepStatus:
    entry, step, config = checked.entry, checked.step, checked.config
    pairs = [(kind, fingerprint) for kind, fingerprint, _ in inputs]
    own = fingerprint_of(step.identity(config, pairs, source))
    fingerprint, chosen = next(
        (
            (fingerprint, chosen)
            for fingerprint, chosen in _candidates(root, checked, inputs, source, own)
            if storage.exists(storage.join(root, entry.name, fingerprint, MANIFEST))
        ),
        (own, [fingerprint for _, fingerprint in pairs]),
    )
    needs = tuple(
        need if "/" in need else f"{need}/{fingerprint}" for need, fingerprint in zip(entry.needs, chosen, strict=True)
    )
    folder = storage.join(root, entry.name, fingerprint)
    state, artifact = _state(root, entry.name, folder)
    return StepStatus(entry, step, config, source, fingerprint, folder, needs, state, artifact)


def _candidates(
    root: str, checked: CheckedStep, inputs: Sequence[_Input], source: SourceState | None, own: str
) -> Iterator[tuple[str, list[str]]]:
    """Fingerprints that are as good as one another, with those of their inputs: what is finished under one is done.

    First its own; then that of the same sources told in an earlier form; then those with inputs that differ in what
    the step does not read.
    """
    step, config = checked.step, checked.config
    kinds, plain = [kind for kind, _, _ in inputs], [fingerprint for _, fingerprint, _ in inputs]
    yield own, plain
    if not storage.folders(storage.join(root, checked.entry.name)):
        return
    for state in step.earlier_states(config) if step.earlier_states else ():
        pairs = list(zip(kinds, plain, strict=True))
        yield fingerprint_of(step.identity(config, pairs, SourceState.of(config, state))), plain
    below = [
        (kind, fingerprint, artifact if "/" not in need else None)
        for need, (kind, fingerprint, artifact) in zip(checked.entry.needs, inputs, strict=True)
    ]
    for others in alternatives(root, below, step.reads):
        yield fingerprint_of(step.identity(config, list(zip(kinds, others, strict=True)), source)), others


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
