"""``starloom opt-out RECIPE ENTRY... [--yes]`` and ``starloom card RUN [--check]``."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from starloom.artifact import newest
from starloom.config import validate
from starloom.errors import UserError
from starloom.governance.obligations import Publication, Shown, owed
from starloom.governance.opt_out import Survey, Wish, carry_out, go_on, pending, survey
from starloom.governance.publisher import Publisher
from starloom.kinds import Cards
from starloom.opt_outs import name_of
from starloom.recipe import Recipe, load_recipe
from starloom.runner import run_recipe

_SHOWN = 20


def opt_out(argv: Sequence[str]) -> int:
    """Say what an opt-out would do, or do it. Returns 0.

    Raises:
        UserError: nobody is named, an entry names nobody, or the recipe has no list.
        RunError: the data could not be made again.
    """
    parser = argparse.ArgumentParser(
        prog="starloom opt-out", description="Take somebody's code out of everything that a run has made."
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of a built-in recipe")
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help="an owner, a group, owner/repo or a link to one")
    parser.add_argument("--yes", action="store_true", help="do it; without it what would be done is only told")
    parser.add_argument("--why", default="", metavar="TEXT", help="goes into the list and onto the page")
    parser.add_argument("--set", action="append", default=[], metavar="STEP.KEY=VALUE", help="override a setting")
    parser.add_argument("--root", metavar="URL", help="where the artifacts are; overrides the recipe's root")
    parser.add_argument("--json", action="store_true", help="what would be done as JSON")
    arguments = parser.parse_args(list(argv))
    recipe = load_recipe(arguments.recipe, root=arguments.root, assignments=tuple(arguments.set))
    names = tuple(dict.fromkeys(_name(entry) for entry in arguments.entries))
    begun = pending(recipe.root)
    if not names and begun is None:
        raise UserError("name whom to take out: an owner, a group, owner/repo or a link to one")
    if not arguments.yes:
        _would(recipe, names or begun.names if begun else names, arguments.json)
        return 0
    go_on(recipe, run=_run, say=_say)
    if names:
        where = carry_out(recipe, Wish(names, arguments.why), run=_run, say=_say)
        print(f"done; {where}.md tells what went, what came back and what stays")
    return 0


def _name(entry: str) -> str:
    name = name_of(entry, where="ENTRY")
    if not name:
        raise UserError(f"ENTRY: {entry!r} names nobody; give an owner, a group, owner/repo or a link to one")
    return name


def _say(line: str) -> None:
    print(line, flush=True)


def _run(recipe: Recipe) -> object:
    return run_recipe(recipe, say=_say)


def _would(recipe: Recipe, names: Sequence[str], as_json: bool) -> None:
    found = survey(recipe, names)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print("\n".join(would_lines(found, recipe)))


def would_lines(found: Survey, recipe: Recipe) -> list[str]:
    """What would be done, for people."""
    lines = [f"written to {', '.join(found.lists)}, and hidden at once by the services of {recipe.root}"]
    lines += [f"{name}: nothing was collected of it; kept for later runs" for name in found.unknown]
    lines.append(f"{found.collected:,} collected rows lose their text; {len(found.files):,} files leave the corpus:")
    lines += [f"  {one.repository}/{one.path}" for one in found.files[:_SHOWN]]
    if len(found.files) > _SHOWN:
        lines.append(f"  and {len(found.files) - _SHOWN:,} more")
    lines.append(f"made again: {', '.join(found.again) or 'nothing'}")
    lines += [f"removed: {one.folder}{' (unfinished)' if one.unfinished else ''}" for one in found.holding]
    lines += [f"trained before, keeps what it learned: {name}" for name in found.models]
    lines.append("nothing was changed; do it with --yes")
    return lines


def card(argv: Sequence[str]) -> int:
    """Print a run's model card, or what its publisher owes. Returns 1 when something of that is missing, else 0.

    Raises:
        UserError: the run has no cards.
    """
    parser = argparse.ArgumentParser(prog="starloom card", description="The cards of a run, and what they owe.")
    parser.add_argument("run", metavar="RUN", help="a run's root, with cards")
    parser.add_argument("--data", action="store_true", help="the card of the data instead of the model's")
    parser.add_argument("--check", action="store_true", help="which obligations the cards meet, and what is missing")
    arguments = parser.parse_args(list(argv))
    found = newest(arguments.run, Cards.kind)
    if found is None:
        raise UserError(f"{arguments.run}: holds no cards; add a step that runs starloom.cards, and run the recipe")
    view = Cards(found)
    if not arguments.check:
        name = Cards.DATA if arguments.data else Cards.MODEL
        text = view.text(name)
        if not text:
            raise UserError(f"{found.folder}: has no {name}; its step was not given what it describes")
        print(text, end="")
        return 0
    shown = owed(publication(view))
    print("\n".join(owed_lines(shown)))
    return 1 if any(one.missing for one in shown) else 0


def publication(view: Cards) -> Publication:
    """What an artifact of cards says of itself."""
    return Publication(
        publisher=validate(Publisher, view.artifact.manifest.config["publisher"], where=view.artifact.folder),
        derived=view.derived,
        model=view.text(Cards.MODEL),
        data=view.text(Cards.DATA),
        license_text=view.text(Cards.LICENSE) or None,
        missing={"model": view.missing.get(Cards.MODEL, {}), "data": view.missing.get(Cards.DATA, {})},
    )


def owed_lines(shown: Sequence[Shown]) -> list[str]:
    """Obligations for people."""
    lines = []
    for one in shown:
        lines.append(f"{'✗' if one.missing else '✓'} {one.obligation.paragraph:<16} {one.obligation.duty}")
        lines += [f"    missing: {what}" for what in one.missing]
    count = sum(bool(one.missing) for one in shown)
    whole = f"all {len(shown)} obligations are met"
    lines.append(f"{count} of {len(shown)} obligations are not met" if count else whole)
    return lines
