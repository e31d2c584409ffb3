"""What a config names: something built in, or ``module:attribute`` of the user's own."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from starloom.errors import UserError, one_line

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


def load(name: str, known: Mapping[str, T], *, what: str) -> T:
    """The built-in thing of that name, or the one that ``module:attribute`` names; `what` is the setting.

    Raises:
        UserError: there is no such thing; names the setting and what there is.
    """
    if name in known:
        return known[name]
    module, separator, attribute = name.partition(":")
    if not separator:
        raise UserError(f"{what}: {name!r} is not one of {', '.join(known)}; one of your own is 'module:attribute'")
    try:
        found: T = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{what}: {name!r} cannot be imported: {missing(error, module)}") from None
    return found


def load_all(names: Sequence[str], known: Mapping[str, T], *, what: str) -> list[T]:
    """`load` for each of several names.

    Raises:
        UserError: one of them does not exist.
    """
    return [load(name, known, what=what) for name in names]


def code_state(names: Sequence[str], *, what: str) -> list[str]:
    """sha256 of each module that ``module:attribute`` names: an edit makes what uses it stale.

    Raises:
        UserError: there is no such module; `what` is the setting.
    """
    modules = sorted({name.partition(":")[0] for name in names if ":" in name})
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
