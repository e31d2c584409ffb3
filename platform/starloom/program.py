"""A step module as a program: ``python -m data_jobs.curate --config job.toml``."""

import argparse
import importlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Json

from starloom.artifact import Artifact, Story, canonical_json
from starloom.cluster import settle
from starloom.config import Config, parse_value, read_toml, set_key, to_toml, validate
from starloom.errors import RunError, UserError, guarded
from starloom.plugins import MOVED, missing
from starloom.step import SourceState, Step, run_step


class AskedSource(Config):
    """A `SourceState` in a job file; `state` is JSON."""

    config: str
    state: Json[Any]


class JobFile(Config):
    """The file behind ``--config``: a recipe's step on its own.

    `source` is what `job_file` writes of sources that were asked already; it counts for the config that it was asked
    for. By hand it is left out.
    """

    name: str
    root: str
    needs: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    source: AskedSource | None = None
    story: Story = Story()

    def source_state(self) -> SourceState | None:
        """The state of the sources, where the file holds it."""
        return SourceState(self.source.config, self.source.state) if self.source else None


def job_file(
    name: str, root: str, needs: Sequence[str], config: Config, source: SourceState | None, story: Story | None = None
) -> bytes:
    """A job file's TOML."""
    head: dict[str, Any] = {"name": name, "root": root, "needs": list(needs)}
    if source is not None:
        head["source"] = {"config": source.config, "state": canonical_json(source.state)}
    if story is not None and story != Story():
        head["story"] = story.model_dump(exclude_defaults=True)
    return (to_toml(head) + "\n[config]\n" + to_toml(config.model_dump(mode="json"))).encode()


def load_step(module_name: str) -> Step:
    """Import a step module and return its ``STEP``.

    Raises:
        UserError: there is no such module, or it defines no step.
        RunError: the module needs a package that is not installed.
    """
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UserError(
                f"run = {module_name!r}: there is no such module; give one such as data_jobs.curate"
            ) from None
        if error.name in MOVED:
            raise UserError(f"{module_name}: {missing(error)}; change the import") from None
        raise RunError(f"{module_name} needs the package {error.name!r}, which is not installed") from error
    step = getattr(module, "STEP", None)
    if not isinstance(step, Step):
        raise UserError(f"run = {module_name!r}: that module defines no STEP; give one such as data_jobs.curate")
    return step


def main(step: Step) -> NoReturn:
    """The command line of a step module. Exits with 0, 1 (failed) or 2 (wrong input)."""
    settle()
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
    job = validate(JobFile, read_toml(arguments.config), where=arguments.config)
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
    root = arguments.root or job.root
    artifact = run_step(
        step, config, root=root, name=job.name, needs=job.needs, source=job.source_state(), story=job.story
    )
    print(summary_line(artifact), flush=True)
    return 0


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
