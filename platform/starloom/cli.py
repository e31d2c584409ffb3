"""The command line: ``starloom run | status | explain | verify | submit | plan | serve | evaluate | ...``."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starloom import __version__, storage
from starloom.errors import UserError, guarded

if TYPE_CHECKING:
    from starloom.recipe import Recipe

# Commands of the three packages, which this package must not import, and of libraries that take long to load.
DELEGATED = {
    "serve": ("serve_apps.serve", "main", "serve a model over HTTP"),
    "editor": ("serve_apps.editor", "main", "put the plugin into an editor, or try what editors send against a server"),
    "evaluate": ("serve_apps.evaluate", "command", "evaluate a model folder, a run, or an OpenAI-compatible URL"),
    "attribute": ("starloom.attribution.command", "attribute", "what of a text stands in a run's corpus, and where"),
    "lookup": ("starloom.attribution.command", "lookup", "what a run's corpus has of an owner, a repository or a file"),
    "opt-out": ("starloom.governance.command", "opt_out", "take somebody's code out of everything a run has made"),
    "card": ("starloom.governance.command", "card", "a run's cards, and which obligations they meet"),
    "plan": ("train_jobs.plan", "main", "memory, time and cost of a training step, before anything is started"),
}


@dataclass(frozen=True)
class Command:
    """A command of this module: what it does and how it reads its arguments."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    work: Callable[[argparse.Namespace], int]


def entry() -> None:
    """Console entry point; exits with 0, 1 (failed while running) or 2 (wrong input)."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    if argv and argv[0] in DELEGATED:
        module, function, _ = DELEGATED[argv[0]]
        return guarded(lambda: int(getattr(importlib.import_module(module), function)(list(argv[1:]))))
    arguments = _parser().parse_args(list(argv))
    return guarded(lambda: COMMANDS[arguments.command].work(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starloom", description="From repositories to a served, evaluated code model."
    )
    parser.add_argument("--version", action="version", version=f"starloom {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.arguments(commands.add_parser(name, help=command.help, description=command.help))
    for name, (_, _, description) in DELEGATED.items():
        commands.add_parser(name, help=description, add_help=False)
    return parser


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of a built-in recipe")
    parser.add_argument("--set", action="append", default=[], metavar="STEP.KEY=VALUE", help="override a setting")
    parser.add_argument("--root", metavar="URL", help="where the artifacts go; overrides the recipe's root")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    parser.add_argument("--only", action="append", default=[], metavar="STEP", help="run this step alone; repeatable")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME=VALUE", help="for people, in the manifests; repeatable"
    )  # fmt: skip
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="steps that run side by side where none needs another (recipe: at_once)",
    )
    parser.add_argument("--frozen", action="store_true", help="only what the recipe's lock holds; see starloom lock")


def _asked_for(arguments: argparse.Namespace) -> "Recipe":
    """The recipe of `run` and `submit`, with what their options change in it."""
    from starloom.recipe import load_recipe

    return load_recipe(
        arguments.recipe,
        root=arguments.root,
        assignments=arguments.set,
        labels=arguments.label,
        at_once=arguments.at_once,
    )


def _lock(arguments: argparse.Namespace) -> int:
    from starloom.lock import lock_of, place_of, write
    from starloom.recipe import load_recipe, resolve

    recipe = load_recipe(arguments.recipe, root=arguments.root, assignments=arguments.set)
    location = place_of(arguments.recipe)
    found = lock_of(resolve(recipe))
    write(location, found)
    print(f"{location}: {len(found.steps)} steps; starloom run {arguments.recipe} --frozen runs these and no others")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from starloom.kinds import Model, Report
    from starloom.lock import place_of
    from starloom.opt_outs import JOURNAL
    from starloom.runner import run_recipe

    def say(line: str) -> None:
        print(line, flush=True)

    recipe = _asked_for(arguments)
    if storage.exists(storage.join(recipe.root, JOURNAL)):
        from starloom.governance.opt_out import go_on

        go_on(recipe, run=lambda data: run_recipe(data, say=say), say=say)
    lock = place_of(arguments.recipe) if arguments.frozen else None
    artifacts = run_recipe(recipe, only=arguments.only, lock=lock, say=say)
    report = storage.join(recipe.root, Report.PAGE)
    if storage.exists(report):
        print(f"report: {report}")
    if any(artifact.kind == Model.kind for artifact in artifacts):
        print(f"serve it: starloom serve {_shortest(recipe.root)}")
    return 0


def _shortest(location: str) -> str:
    from pathlib import Path

    if storage.is_remote(location):
        return location
    path = Path(location)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else location


def _noted(line: str) -> None:
    print(f"note: {line}", file=sys.stderr, flush=True)


def _status(arguments: argparse.Namespace) -> int:
    from starloom.recipe import load_recipe, resolve

    recipe = load_recipe(arguments.recipe, root=arguments.root, assignments=tuple(arguments.set))
    print(f"{'step':<16} {'state':<11} {'fingerprint':<17} {'rows':>12} {'MB':>10} {'seconds':>9}")
    for status in resolve(recipe, absent=_noted):
        line = f"{status.entry.name:<16} {status.state:<11} {status.fingerprint:<17}"
        if status.artifact is not None:
            manifest = status.artifact.manifest
            line += f" {manifest.counts.rows_out:>12,} {manifest.bytes / 1e6:>10,.1f} {manifest.seconds:>9,.1f}"
        print(line.rstrip())
    return 0


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    parser.add_argument("file", metavar="REPO/PATH", help="the repository's name and the file's path in it")


def _explain(arguments: argparse.Namespace) -> int:
    from starloom.explain import explain
    from starloom.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, root=arguments.root, assignments=tuple(arguments.set))
    for word in explain(recipe, arguments.file):
        print(f"{word.stage:<16} {word.text}")
    return 0


def _lineage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's root, a folder or a URL")
    parser.add_argument("step", nargs="?", metavar="STEP", help="whose newest artifact (default: the newest model)")


def _lineage(arguments: argparse.Namespace) -> int:
    from starloom.lineage import lineage

    print("\n".join(lineage(arguments.run, arguments.step)))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from starloom.recipe import load_recipe
    from starloom.verify import told, verify

    recipe = load_recipe(arguments.recipe, root=arguments.root, assignments=tuple(arguments.set))
    found = []
    for one in verify(recipe):
        found.append(one)
        state = f"{len(one.damages)} damaged" if one.damages else f"{one.files:,} files, {one.bytes / 1e6:,.1f} MB"
        print(f"{one.step:<16} {one.fingerprint:<17} {state}", flush=True)
        for damage in one.damages:
            print(f"  {damage}")
    print("\n".join(told(found)))
    return 1 if any(one.damages for one in found) else 0


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    parser.add_argument("--address", required=True, metavar="URL", help="the cluster's dashboard, http://HEAD:8265")
    parser.add_argument("--follow", action="store_true", help="print the job's log until it ends")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable for the run and its steps; repeatable",
    )


def _submit(arguments: argparse.Namespace) -> int:
    from starloom.jobs import Sent, submit_run
    from starloom.recipe import check, written_root
    from starloom.runner import travels

    # a wrong recipe is told here, before anything travels; its sources may be where only the cluster is
    recipe = _asked_for(arguments)
    check(recipe)
    travels(recipe, asked=arguments.root or written_root(arguments.recipe))
    extra = [word for value in arguments.set for word in ("--set", value)]
    extra += [word for value in arguments.only for word in ("--only", value)]
    extra += [word for value in arguments.label for word in ("--label", value)]
    extra += ["--root", arguments.root] if arguments.root else []
    extra += ["--at-once", str(arguments.at_once)] if arguments.at_once else []
    extra += ["--frozen"] if arguments.frozen else []
    sent = Sent(recipe.name, arguments.recipe, tuple(extra), tuple(map(_variable, arguments.env)))
    run = submit_run(arguments.address, sent, follow=arguments.follow)
    print(f"{run}\nfollow it: starloom attach {run} --address {arguments.address}")
    return 0


def _variable(text: str) -> tuple[str, str]:
    """A variable of ``--env``: NAME=VALUE, or NAME for the value that it has here."""
    import os

    name, equals, value = text.partition("=")
    if not name or (not equals and name not in os.environ):
        raise UserError(f"--env {text}: write NAME=VALUE, or the NAME of a variable that is set here")
    return name, value if equals else os.environ[name]


def _address_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        default="http://127.0.0.1:8265",
        metavar="URL",
        help="the cluster's dashboard (default: port 8265 here)",
    )


def _of_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="the run's id, as `starloom runs` tells it")
    _address_argument(parser)


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    _of_run_arguments(parser)
    parser.add_argument("step", nargs="?", metavar="STEP", help="this step's log (default: the run's own)")


def _runs(arguments: argparse.Namespace) -> int:
    from datetime import datetime

    from starloom.jobs import runs, state_of

    print(f"{'run':<44} {'state':<10} {'began':<17} steps")
    for run, jobs in runs(arguments.address):
        began = datetime.fromtimestamp((jobs[0].start_time or 0) / 1000).strftime("%Y-%m-%d %H:%M")
        steps = (f"{job.metadata['step']} {job.status.value.lower()}" for job in jobs if "step" in job.metadata)
        print(f"{run:<44} {state_of(jobs):<10} {began:<17} {', '.join(steps)}".rstrip())
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    from starloom.jobs import log_of

    print(log_of(arguments.address, arguments.name, arguments.step), end="")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from starloom.jobs import stop

    stopped = stop(arguments.address, arguments.name)
    print("\n".join(f"stopped {job}" for job in stopped) or "nothing of it was running")
    return 0


def _attach(arguments: argparse.Namespace) -> int:
    from starloom.jobs import attach

    attach(arguments.address, arguments.name)
    return 0


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    parser.add_argument("--yes", action="store_true", help="remove them; without it they are only listed")


def _prune(arguments: argparse.Namespace) -> int:
    from starloom.reachable import stale
    from starloom.recipe import load_recipe, resolve

    recipe = load_recipe(arguments.recipe, root=arguments.root, assignments=tuple(arguments.set))
    found = list(stale(recipe, resolve(recipe, absent=_noted)))
    for one in found:
        print(f"{one.bytes / 1e6:>10,.1f} MB  {one.folder}", flush=True)
        if arguments.yes:
            storage.remove_below(one.folder)
    verb = "removed" if arguments.yes else "stale; remove them with --yes"
    print(f"{len(found)} artifacts {verb}, {sum(one.bytes for one in found) / 1e6:,.1f} MB")
    return 0


COMMANDS = {
    "run": Command("bring every step of a recipe up to date", _run_arguments, _run),
    "status": Command("each step: done, stale, unfinished or missing; rows, size, seconds", _recipe_arguments, _status),
    "lock": Command("write down what a recipe comes to now, for run --frozen", _recipe_arguments, _lock),
    "explain": Command("why a file is in the corpus or not", _explain_arguments, _explain),
    "lineage": Command("from what a model was made, down to the sources", _lineage_arguments, _lineage),
    "verify": Command("read every file again and compare checksums", _recipe_arguments, _verify),
    "submit": Command("the same run as a Ray job on a cluster", _submit_arguments, _submit),
    "runs": Command("the runs that a cluster knows, and how they stand", _address_argument, _runs),
    "logs": Command("what a run, or one of its steps, has printed", _logs_arguments, _logs),
    "attach": Command("follow a run's log until it ends", _of_run_arguments, _attach),
    "stop": Command("stop a run and its steps; what is finished stays", _of_run_arguments, _stop),
    "prune": Command("list or remove artifacts that no recipe of the root leads to any more", _prune_arguments, _prune),
}


if __name__ == "__main__":
    entry()
