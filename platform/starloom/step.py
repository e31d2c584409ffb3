"""A step: a frozen config, a function, and the artifact that it writes.

A module that exports one as ``STEP`` is a program (`starloom.program`), a step of a recipe and a Ray job.
"""

import importlib
import importlib.metadata
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from starloom import storage
from starloom.artifact import (
    MANIFEST,
    Artifact,
    ArtifactWriter,
    Counts,
    InputEntry,
    Manifest,
    Story,
    find,
    fingerprint_of,
    location_below,
)
from starloom.config import Config
from starloom.errors import UserError
from starloom.lease import lease

PACKAGES = ("starloom", "ray", "torch", "deepspeed", "tokenizers", "datasketch", "pyarrow", "numpy", "numba")


@dataclass(frozen=True)
class Outcome:
    """What a step reports; everything in it is JSON-able and the same for equal runs."""

    rows_in: int = 0
    rows_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepContext:
    """Where a step reads and writes."""

    name: str
    root: str
    output: ArtifactWriter
    inputs: tuple[Artifact, ...]
    source: Any = None  # the state of the step's sources that is in its fingerprint

    def every(self, kind: str) -> list[Artifact]:
        """The inputs of one kind, in the order of ``needs``."""
        return [artifact for artifact in self.inputs if artifact.kind == kind]

    def optional(self, kind: str) -> Artifact | None:
        """The one input of a kind, or None; `UserError` when there are several."""
        found = self.every(kind)
        if len(found) > 1:
            names = ", ".join(artifact.name for artifact in found)
            raise UserError(
                f"step {self.name}: needs names {len(found)} artifacts of kind {kind!r} ({names}); keep one"
            )
        return found[0] if found else None

    def only(self, kind: str) -> Artifact:
        """The one input of a kind; `UserError` when there is none or several."""
        artifact = self.optional(kind)
        if artifact is None:
            raise UserError(f"step {self.name}: needs lacks an artifact of kind {kind!r}; add the step that makes it")
        return artifact

    def say(self, line: str) -> None:
        """A line of progress."""
        print(f"{self.name}: {line}", flush=True)


@dataclass(frozen=True)
class SourceState:
    """What a step's sources were when they were asked, and the fingerprint of the config that named them."""

    config: str
    state: Any

    @classmethod
    def of(cls, config: Config, state: Any) -> "SourceState":
        """The state for a config."""
        return cls(fingerprint_of(config.identity()), state)


class Count(StrEnum):
    """How many artifacts of a kind a step takes."""

    ONE = "one"
    OPTIONAL = "optional"
    ANY = "any"


OTHERS = "*"  # in `Step.consumes`: kinds that are not named


@dataclass(frozen=True)
class Step:
    """What a step module exports as ``STEP``.

    `source_state` describes inputs from outside the run (a folder's listing, an endpoint's model) in JSON-able form:
    it enters the fingerprint, so that a changed source makes the step stale. `earlier_states` are that state in the
    forms that it had before: a step that was finished under one of them is not stale for the form alone. Raise
    `version` when the same config would give other bytes than before. `consumes` tells how many artifacts of which
    kinds it takes, so that a wrong input is told before anything starts; None, as steps of before have it, is asked
    nothing. `reads` names, for a kind of input of which the step reads a part alone, the prefixes of the files in that
    part (and it may read the manifest's `details`): while they stay the same, the step is not stale for the rest.
    """

    config: type[Config]
    run: Callable[[Any, StepContext], Outcome]
    produces: str
    version: int = 1
    source_state: Callable[[Any], Any] | None = None
    consumes: Mapping[str, Count] | None = None
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    earlier_states: Callable[[Any], Sequence[Any]] | None = None

    def misfit(self, kinds: Sequence[str], *, whole: bool = True) -> str:
        """What is wrong with inputs of these kinds, in `whole` or as far as they are known; empty when nothing is."""
        if self.consumes is None:
            return ""
        takes = ", ".join(f"{kind} ({count})" for kind, count in self.consumes.items() if kind != OTHERS)
        for kind in kinds:
            if self.consumes.get(kind, self.consumes.get(OTHERS)) is None:
                return f"takes no artifact of kind {kind!r}; it takes {takes or 'none'}"
        for kind, count in self.consumes.items():
            given = list(kinds).count(kind)
            if given > 1 and count is not Count.ANY:
                return f"takes one artifact of kind {kind!r}, and needs names {given}"
            if whole and not given and count is Count.ONE:
                return f"needs an artifact of kind {kind!r}; add the step that makes it"
        return ""

    def identity(
        self, config: Config, inputs: Sequence[tuple[str, str]], source: SourceState | None = None
    ) -> dict[str, Any]:
        """What the fingerprint is the hash of; `inputs` are (kind, fingerprint) in the order of ``needs``.

        `source` is the state of the outside where it was asked before: asking can mean to walk millions of files.
        """
        known = source if source is not None and source.config == fingerprint_of(config.identity()) else None
        return {
            "step": self.config.__name__,
            "kind": self.produces,
            "version": self.version,
            "config": config.identity(),
            "inputs": [list(entry) for entry in inputs],
            "source": known.state if known is not None else self.ask_source(config),
        }

    def ask_source(self, config: Config) -> Any:
        """The state of what the step reads from outside the run.

        Raises:
            UserError: there is no such source here.
        """
        return self.source_state(config) if self.source_state else None


def run_step(
    step: Step,
    config: Config,
    *,
    root: str,
    name: str,
    needs: Sequence[Artifact | str] = (),
    source: SourceState | None = None,
    story: Story | None = None,
) -> Artifact:
    """Run a step in this process and return its artifact; one that is finished is returned without work.

    Raises:
        UserError: wrong config or inputs.
        RunError: the work failed; finished shards stay and are not done again.
    """
    root = storage.normalize(str(root))
    inputs = tuple(need if isinstance(need, Artifact) else find(root, need) for need in needs)

    identity = step.identity(config, [(artifact.kind, artifact.fingerprint) for artifact in inputs], source)

    def work(output: ArtifactWriter) -> Outcome:
        return step.run(config, StepContext(name, root, output, inputs, identity["source"]))

    settings = config.model_dump(mode="json")
    return produce(root, name, step.produces, identity=identity, config=settings, inputs=inputs, work=work, story=story)


def produce(
    root: str,
    name: str,
    kind: str,
    *,
    identity: dict[str, Any],
    config: dict[str, Any],
    work: Callable[[ArtifactWriter], Outcome],
    inputs: Sequence[Artifact] = (),
    story: Story | None = None,
) -> Artifact:
    """The artifact ``root/name/FINGERPRINT`` that `work` writes; one that is finished is returned without work.

    Raises:
        RunError: the disk is full or closed.
    """
    fingerprint = fingerprint_of(identity)
    output = ArtifactWriter(storage.join(root, name, fingerprint))
    with lease(output.folder, say=lambda line: print(f"{name}: {line}", flush=True)):
        if output.exists(MANIFEST):
            return Artifact.open(output.folder)
        started = time.monotonic()
        outcome = work(output)
        files = output.inventory()
        entries = (
            InputEntry(step=a.name, kind=a.kind, fingerprint=a.fingerprint, location=location_below(root, a))
            for a in inputs
        )
        manifest = Manifest(
            step=name,
            kind=kind,
            fingerprint=fingerprint,
            provenance=identity,
            config=config,
            inputs=tuple(entries),
            counts=Counts(rows_in=outcome.rows_in, rows_out=outcome.rows_out, dropped=outcome.dropped),
            details=outcome.details,
            bytes=sum(entry.bytes for entry in files.values()),
            seconds=round(time.monotonic() - started, 3),
            packages=package_versions(),
            story=(story or Story()).model_copy(
                update={"finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), "host": socket.gethostname()}
            ),
            files=files,
        )
        return output.finish(manifest)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def __getattr__(name: str) -> Any:
    """`main` and `load_step` for step modules of before 0.2, which take them from here: they are `program`'s now."""
    if name not in ("main", "load_step"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("starloom.program"), name)
