"""The house in order: no circle, nobody imports an entry, private parts of others in one place, functions that say."""

import re
from collections import defaultdict

import pytest

from tests.platform.house import ROOMS, ROOT, Module, circles, functions, imports, is_entry, modules

LONGEST_LINES, P90_LINES = 50, 16
# the same role in each module that has one
SHARED_NAMES = frozenset({"run", "source_state", "earlier_states", "main", "command", "router"})
# what no file but one may know of DeepSpeed: names that begin with an underscore, and marks that it leaves on objects
DEEPSPEED_PRIVATE = re.compile(
    r"\b(?:engine|optimizer|inner|ops)\.__?[a-z]\w*|\b_INSTRUCTION_MAP\b|\bds_pipe_replicated\b|\btensor_model_parallel\b"
    r"|\bfp32_partitioned_groups_flat\b|\bsingle_partition_of_fp32_groups\b|\bclip_fp32_gradients\b|\b_global_grad_norm\b"
)


def test_no_file_imports_itself_through_others() -> None:
    assert circles({name: set(imports(module)) for name, module in modules().items()}) == []


def test_within_a_room_no_arrow_runs_up() -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for module in modules().values():
        arrows[module.chamber] |= {modules()[name].chamber for name in imports(module)} - {module.chamber}
    assert circles(arrows) == []


def test_circle_is_found_where_there_is_one() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def entries() -> set[str]:
    return {name for name, module in modules().items() if is_entry(module)}


def test_nobody_imports_an_entry() -> None:
    known = entries()
    assert {"data_jobs.collect", "train_jobs.pretrain", "serve_apps.evaluate", "starloom.report"} <= known
    wrong = [
        f"{module.name} imports {name}" for module in modules().values() for name in imports(module) if name in known
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_name_says_one_thing_within_a_room(room: str) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules().values():
        for name in _public_names(module) if module.room == room else ():
            places[name].append(module.name)
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED_NAMES} == {}


def _public_names(module: Module) -> list[str]:
    named = (getattr(node, "name", "_") for node in module.tree.body)
    return [name for name in named if not name.startswith("_")]


def test_private_parts_of_deepspeed_are_in_one_file() -> None:
    wrong = [
        f"{module.path.relative_to(ROOT)}: {found.group()}"
        for module in modules().values()
        if module.room == "train_jobs" and module.name != "train_jobs.parallel.deepspeed_internals"
        for found in DEEPSPEED_PRIVATE.finditer(module.path.read_text())
    ]
    assert wrong == []
    assert re.search(r'"deepspeed>=[\d.]+,<', (ROOT / "pyproject.toml").read_text())


def test_functions_are_short() -> None:
    found = [one for one in functions() if not one.is_compiled]
    assert [f"{one.name}: {one.lines}" for one in found if one.lines > LONGEST_LINES] == []
    lengths = sorted(one.lines for one in found)
    assert lengths[int(0.9 * len(lengths))] <= P90_LINES


def test_public_functions_name_the_errors_that_they_raise() -> None:
    wrong = {
        one.name: missing
        for one in functions()
        if one.is_public and (missing := sorted(name for name in one.raised() if name not in one.docstring))
    }
    assert wrong == {}


def test_public_functions_with_arrays_give_their_shapes() -> None:
    assert [one.name for one in functions() if one.is_public and one.has_arrays and not one.gives_shape] == []


def test_the_sandbox_can_be_read_without_the_benchmarks() -> None:
    inside = [module for module in modules().values() if module.name.startswith("serve_apps.sandbox")]
    wanted = {name for module in inside for name in imports(module)}
    assert {name for name in wanted if not name.startswith(("serve_apps.sandbox", "starloom."))} == set()
