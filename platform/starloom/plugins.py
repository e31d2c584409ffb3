"""What a config names: something built in, what an installed package offers, or ``module:attribute`` of one's own.

A package offers a thing under a name by an entry point of the group ``starloom.GROUP`` (`GROUPS`).
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from starloom.errors import UserError, one_line

Group = Literal["steps", "sources", "rules", "detectors", "benchmarks", "dialects"]
PREFIX: Final = "starloom."
T = TypeVar("T")
_beside: list[str] = []

# modules that users could have imported, and where their content is now
MOVED: Mapping[str, str] = {
    "data_jobs.admission": "data_jobs.admission.rules",
    "data_jobs.card": "data_jobs.corpus.card",
    "data_jobs.collecting": "data_jobs.collect",
    "data_jobs.curating": "data_jobs.corpus",
    "data_jobs.decontaminating": "data_jobs.benchmarks",
    "data_jobs.documents": "data_jobs.documents.rendering",
    "data_jobs.draws": "starloom.draws",
    "data_jobs.filtering": "data_jobs.verdicts",
    "data_jobs.licenses": "data_jobs.licenses.expressions",
    "data_jobs.nameless": "data_jobs.admission.magika",
    "data_jobs.near_duplicates.banding": "data_jobs.near_duplicates.config",
    "data_jobs.notebooks": "data_jobs.admission.notebooks",
    "data_jobs.packing": "data_jobs.pack",
    "data_jobs.parts": "starloom.records",
    "data_jobs.policing": "data_jobs.policy",
    "data_jobs.redacting": "data_jobs.redact",
    "data_jobs.tokenization": "data_jobs.train_tokenizer",
    "serve_apps.evaluation.control_groups": "serve_apps.sandbox.control_groups",
    "serve_apps.evaluation.evaluate_benchmark": "serve_apps.evaluation.judging",
    "serve_apps.evaluation.inside": "serve_apps.sandbox.inside",
    "serve_apps.evaluation.javatuples": "serve_apps.sandbox.java",
    "serve_apps.evaluation.jobs": "serve_apps.sandbox.jobs",
    "serve_apps.evaluation.languages": "serve_apps.sandbox.toolchains",
    "serve_apps.evaluation.pool": "serve_apps.sandbox.pool",
    "serve_apps.evaluation.sandbox": "serve_apps.sandbox.sandbox",
    "serve_apps.evaluation.seals": "serve_apps.sandbox.seals",
    "serve_apps.evaluation.worker": "serve_apps.evaluation.carry_out",
    "train_jobs.checkpoint": "train_jobs.checkpoints.store",
    "train_jobs.deepspeed_settings": "train_jobs.parallel.deepspeed_settings",
    "train_jobs.exporting": "train_jobs.checkpoints.export",
    "train_jobs.forecast": "train_jobs.planning.forecast",
    "train_jobs.hardware": "train_jobs.planning.hardware",
    "train_jobs.launch": "train_jobs.loop.launch",
    "train_jobs.preflight": "train_jobs.planning.preflight",
    "train_jobs.worker": "train_jobs.loop.worker",
}


@functools.cache
def installed(group: Group) -> Mapping[str, str]:
    """What installed packages offer of a group: name and ``module:attribute`` (of steps: the module)."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=PREFIX + group)}


def offered(group: Group) -> list[Any]:
    """The things themselves, in the order of their names.

    Raises:
        UserError: one of them cannot be imported.
    """
    return [load(installed(group)[name], {}, what=f"{PREFIX}{group}") for name in sorted(installed(group))]


def load(name: str, known: Mapping[str, T], *, what: str, group: Group | None = None) -> T:
    """The built-in thing of that name, an installed package's, or what ``module:attribute`` names.

    Args:
        name: what a config says.
        known: the built-in things.
        what: the setting, for the error.
        group: of what installed packages offer.

    Raises:
        UserError: there is no such thing; names the setting and what there is.
    """
    if name in known:
        return known[name]
    more = installed(group) if group else {}
    module, separator, attribute = more.get(name, name).partition(":")
    if not separator:
        listed = ", ".join([*known, *more])
        raise UserError(f"{what}: {name!r} is not one of {listed}; one of your own is 'module:attribute'")
    try:
        found: T = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{what}: {name!r} cannot be imported: {missing(error, module)}") from None
    return found


def load_all(names: Sequence[str], known: Mapping[str, T], *, what: str, group: Group | None = None) -> list[T]:
    """`load` for each of several names.

    Raises:
        UserError: one of them does not exist.
    """
    return [load(name, known, what=what, group=group) for name in names]


def code_state(names: Sequence[str], *, what: str, group: Group) -> list[str]:
    """sha256 of each module of others that the names lead to: an edit makes what uses it stale.

    Raises:
        UserError: there is no such module; `what` is the setting.
    """
    places = (installed(group).get(name, name) for name in names)
    modules = sorted({place.partition(":")[0] for place in places if ":" in place})
    states = []
    for module in modules:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            raise UserError(f"{what}: there is no module {module!r}; put it beside the recipe, or install it")
        path = Path(spec.origin) if spec.origin else None
        states.append(hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else "")
    return states


def look_beside(folder: Path) -> None:
    """Let modules be found in a folder, after all others: those beside a recipe are its own."""
    place = str(folder.absolute())
    if place not in sys.path:
        sys.path.append(place)
        _beside.append(place)
        importlib.invalidate_caches()


def beside() -> list[str]:
    """The folders that `look_beside` was told."""
    return list(_beside)


def missing(error: ImportError | AttributeError, module: str = "") -> str:
    """The error in words; where a module has moved, or what it holds, its new place."""
    moved = next((name for name in (error.name, module) if name in MOVED), None)
    return one_line(error) if moved is None else f"{moved} is now {MOVED[moved]}"
