"""A step: a module with a frozen config, a function, and the artifact that it writes.

The same module is a program (``python -m data_jobs.curate --config job.toml``), a step of a recipe and a Ray job.
"""

import argparse
import fcntl
import importlib
import importlib.metadata
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from starloom import storage
from starloom.artifact import (
    Artifact,
    ArtifactWriter,
    Counts,
    InputEntry,
    Manifest,
    find,
    fingerprint_of,
    location_below,
)
from starloom.config import Config, parse_value, set_key, validate
from starloom.errors import RunError, StarloomError, UserError

PACKAGES = ("starloom", "ray", "torch", "deepspeed", "tokenizers", "datasketch", "pyarrow", "numpy", "numba")
LOCK_PATIENCE_SECONDS = 30.0


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
class Step:
    """What a step module exports as ``STEP``.

    `source_state` describes inputs from outside the run (a folder's listing, an endpoint's model) in JSON-able form:
    it enters the fingerprint, so that a changed source makes the step stale. Raise `version` when the same config
    would give other bytes than before.
    """

    config: type[Config]
    run: Callable[[Any, StepContext], Outcome]
    produces: str
    version: int = 1
    source_state: Callable[[Any], Any] | None = None

    def identity(self, config: Config, inputs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """What the fingerprint is the hash of; `inputs` are (kind, fingerprint) in the order of ``needs``."""
        return {
            "step": self.config.__name__,
            "kind": self.produces,
            "version": self.version,
            "config": config.identity(),
            "inputs": [list(entry) for entry in inputs],
            "source": self.source_state(config) if self.source_state else None,
        }


def run_step(step: Step, config: Config, *, root: str, name: str, needs: Sequence[Artifact | str] = ()) -> Artifact:
    """Run a step in this process and return its artifact; one that is finished is returned without work.

    Raises:
        UserError: wrong config or inputs.
        RunError: the work failed; finished shards stay and are not done again.
    """
    root = storage.normalize(str(root))
    inputs = tuple(need if isinstance(need, Artifact) else find(root, need) for need in needs)
    identity = step.identity(config, [(artifact.kind, artifact.fingerprint) for artifact in inputs])
    fingerprint = fingerprint_of(identity)
    output = ArtifactWriter(storage.join(root, name, fingerprint))
    with _locked(output):
        if output.exists("manifest.json"):
            return Artifact.open(output.folder)
        started = time.monotonic()
        outcome = step.run(config, StepContext(name=name, root=root, output=output, inputs=inputs))
        files = output.inventory()
        manifest = Manifest(
            step=name,
            kind=step.produces,
            fingerprint=fingerprint,
            provenance=identity,
            config=config.model_dump(mode="json"),
            inputs=tuple(
                InputEntry(step=a.name, kind=a.kind, fingerprint=a.fingerprint, location=location_below(root, a))
                for a in inputs
            ),
            counts=Counts(rows_in=outcome.rows_in, rows_out=outcome.rows_out, dropped=outcome.dropped),
            details=outcome.details,
            bytes=sum(entry.bytes for entry in files.values()),
            seconds=round(time.monotonic() - started, 3),
            packages=package_versions(),
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


@contextmanager
def _locked(output: ArtifactWriter) -> Iterator[None]:
    """Keep two processes of one machine out of the same artifact; object stores have no such lock."""
    if storage.is_remote(output.folder):
        yield
        return
    try:
        Path(output.folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(Path(output.folder) / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise storage.disk_error(error, output.folder) from error
    try:
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{output.folder}: another process is writing it; wait for that run to end"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


class JobFile(Config):
    """The file behind ``--config``: a recipe's step on its own."""

    name: str
    root: str
    needs: tuple[str, ...] = ()
    config: dict[str, Any] = {}


def load_step(module_name: str) -> Step:
    """Import a step module and return its ``STEP``."""
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UserError(
                f"run = {module_name!r}: there is no such module; give one such as data_jobs.curate"
            ) from None
        raise RunError(f"{module_name} needs the package {error.name!r}, which is not installed") from error
    step = getattr(module, "STEP", None)
    if not isinstance(step, Step):
        raise UserError(f"run = {module_name!r}: that module defines no STEP; give one such as data_jobs.curate")
    return step


def main(step: Step) -> NoReturn:
    """The command line of a step module. Exits with 0, 1 (failed) or 2 (wrong input)."""
    _end_with_parents()
    module_name = _main_module_name()
    if module_name is not None:
        # classes of __main__ are strangers to Ray's workers: take the module under its own name
        step = load_step(module_name)
    sys.exit(_run_command(step, module_name or "step"))


def _end_with_parents() -> None:
    """End this process when its job's supervisor does; without it an orphan would hold the artifact's lock.

    Ray has a watcher for that, which is lost when the whole cluster is killed at once.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return

    def ancestors() -> tuple[int, int]:
        parent = os.getppid()  # the shell that Ray starts
        status = Path(f"/proc/{parent}/stat")
        return parent, int(status.read_text().rpartition(")")[2].split()[1]) if status.exists() else 0

    born_with = ancestors()

    def watch() -> None:
        while ancestors() == born_with:
            time.sleep(0.5)
        os._exit(1)

    if Path("/proc/self/stat").exists():
        threading.Thread(target=watch, daemon=True).start()


def _main_module_name() -> str | None:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else None


def _run_command(step: Step, module_name: str) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {module_name}", description=step.run.__doc__)
    parser.add_argument("--config", required=True, help="TOML file or URL with name, root, needs and [config]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of [config]")
    parser.add_argument("--root", help="override the root")
    parser.add_argument("--show", action="store_true", help="print the resolved config and stop")
    arguments = parser.parse_args()
    return guarded(lambda: _run_job(step, arguments))


def _run_job(step: Step, arguments: argparse.Namespace) -> int:
    job = validate(JobFile, _read_job(arguments.config), where=arguments.config)
    settings = dict(job.config)
    for assignment in arguments.set:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"--set {assignment}: has no '='; write --set KEY=VALUE")
        set_key(settings, key, parse_value(text))
    config = validate(step.config, settings, where=arguments.config)
    if arguments.show:
        print(config.model_dump_json(indent=2))
        return 0
    artifact = run_step(step, config, root=arguments.root or job.root, name=job.name, needs=job.needs)
    print(summary_line(artifact), flush=True)
    return 0


def _read_job(location: str) -> dict[str, Any]:
    from starloom.config import read_toml

    return read_toml(storage.local_copy(location)) if storage.is_remote(location) else read_toml(location)


def summary_line(artifact: Artifact) -> str:
    """One line per finished step: rows, drops, size and time."""
    manifest = artifact.manifest
    counts = manifest.counts
    parts = [f"{counts.rows_in:,} → {counts.rows_out:,} rows"] if counts.rows_in or counts.rows_out else []
    if counts.dropped:
        top = sorted(counts.dropped.items(), key=lambda entry: (-entry[1], entry[0]))
        listed = ", ".join(f"{reason} {count:,}" for reason, count in top[:3])
        more = f", {len(top) - 3} more" if len(top) > 3 else ""
        parts.append(f"dropped {listed}{more}")
    parts.append(f"{manifest.bytes / 1e6:,.1f} MB in {manifest.seconds:,.1f} s")
    return f"✓ {manifest.step} {manifest.fingerprint[:8]}: " + "; ".join(parts)


def guarded(work: Callable[[], int]) -> int:
    """Run a command; errors that a user is meant to read become one line on stderr and the exit code."""
    try:
        return work()
    except KeyboardInterrupt:
        print("interrupted; what is finished stays, run again to go on", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - the outermost frame: everything is shown, nothing swallowed
        known = readable(error)
        if known is None:
            traceback.print_exc()
            print(f"error: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            return 1
        print(f"error: {known}", file=sys.stderr, flush=True)
        return known.exit_code


def readable(error: BaseException) -> StarloomError | None:
    """The error for the user inside what Ray, a worker or a library wrapped around it, if there is one."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, StarloomError):
            return current
        if isinstance(current, OSError) and current.errno is not None:
            translated = storage.disk_error(current, str(current.filename or "writing"))
            if isinstance(translated, StarloomError):
                return translated
        cause = getattr(current, "cause", None)
        queue += [cause if isinstance(cause, BaseException) else None, current.__cause__, current.__context__]
    return None
