"""A source is what its files hold: dates do not matter, edits with an old date do, and a second look reads nothing."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_jobs.collect import STEP, CollectConfig
from data_jobs.sources import seen, walks
from data_jobs.sources.folder import FolderSource
from data_jobs.sources.names import excluded, wholly_excluded
from data_jobs.sources.tables import JsonLinesSource
from starloom.program import load_step
from starloom.recipe import Recipe, State, resolve
from starloom.step import run_step
from tests.data_jobs import source_trees as trees

LONG_AGO = 1_000_000_000


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLOOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    files = {f"pack{n}/m{n}.py": f"VALUE = {n}\n" for n in range(50)}
    return trees.write_files(tmp_path / "code", files)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose content is read."""
    read: list[str] = []
    own = seen._content

    def content(root: str, found: Any) -> str:
        read.append(found.relative)
        return own(root, found)

    monkeypatch.setattr(seen, "_content", content)
    monkeypatch.setattr(seen, "RACY_NANOSECONDS", -1)  # the files were written just now
    return read


def test_a_second_look_reads_what_has_changed_and_nothing_else(code: Path, opened: list[str]) -> None:
    source = FolderSource(path=str(code))
    first = source.state()
    assert len(opened) == 50
    opened.clear()
    assert source.state() == first
    assert opened == []
    (code / "pack7" / "m7.py").write_text("VALUE = 8\n")
    (code / "pack7" / "new.py").write_text("x = 1\n")
    (code / "pack9" / "m9.py").unlink()
    changed = source.state()
    assert changed != first
    assert opened == ["pack7/m7.py", "pack7/new.py"]
    opened.clear()
    assert source.state() == changed
    assert opened == []


def test_dates_do_not_matter_and_a_date_that_is_set_back_hides_nothing(code: Path, opened: list[str]) -> None:
    source = FolderSource(path=str(code))
    first = source.state()
    for path in code.rglob("*.py"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert source.state() == first
    path = code / "pack3" / "m3.py"
    path.write_text("VALUE = 4\n")  # of the same size
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert source.state() != first


def test_what_was_written_just_now_is_read_again_the_next_time(code: Path, opened: list[str], monkeypatch) -> None:
    monkeypatch.setattr(seen, "RACY_NANOSECONDS", 60_000_000_000)
    source = FolderSource(path=str(code))
    assert source.state() == source.state()
    assert len(opened) == 100


@pytest.mark.parametrize("damage", [b"", b"no gzip", None])
def test_a_damaged_cache_costs_reading_and_nothing_else(code: Path, opened: list[str], tmp_path: Path, damage) -> None:
    source = FolderSource(path=str(code))
    first = source.state()
    shutil.rmtree(tmp_path / "cache" / "glances")
    (table,) = (tmp_path / "cache" / "seen").iterdir()
    table.write_bytes(table.read_bytes()[:-30] if damage is None else damage)
    assert source.state() == first


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The states of the walks that were written down since."""
    states: list[str] = []
    own = walks.remembered

    def remembered(files: Any) -> str:
        states.append(own(files))
        return states[-1]

    monkeypatch.setattr(walks, "remembered", remembered)
    return states


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda code: (code / "pack1" / "m1.py").write_text("VALUE = 2\n"),
    "new": lambda code: (code / "new" / "deeper").mkdir(parents=True) or (code / "new" / "deeper" / "x.py").touch(),
    "gone": lambda code: (code / "pack1" / "m1.py").unlink(),
    "name": lambda code: (code / "pack1" / "m1.py").rename(code / "pack1" / "m2.py"),
    "folder": lambda code: (code / "pack1").rename(code / "pack01"),
    "link": lambda code: (code / "link").symlink_to("nowhere"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_glance_is_enough_where_nothing_has_changed(
    code: Path, opened: list[str], walked: list[str], change: str
) -> None:
    source = FolderSource(path=str(code))
    first = source.state()
    assert [source.state(), FolderSource(path=str(code)).state()] == [first, first]
    assert len(walked) == 1
    (code / "pack1" / "__pycache__").mkdir()
    (code / "pack1" / "__pycache__" / "m1.pyc").touch()  # is no source
    assert source.state() == first
    assert len(walked) == 1
    CHANGES[change](code)
    assert source.state() == walked[-1] != first
    assert source.state() == walked[-1]
    assert len(walked) == 2


def test_a_glance_is_not_enough_for_a_walk_that_is_forgotten_or_that_could_not_read(
    code: Path, opened: list[str], walked: list[str], tmp_path: Path
) -> None:
    source = FolderSource(path=str(code))
    first = source.state()
    shutil.rmtree(tmp_path / "cache" / "walks")
    assert source.state() == first
    assert len(walked) == 2
    assert walks.recalled(first) is not None
    os.mkfifo(code / "pack1" / "pipe")
    assert source.state() == source.state() != first
    assert len(walked) == 4


def test_folder_that_is_left_out_is_not_looked_into(code: Path, opened: list[str], walked: list[str]) -> None:
    source = FolderSource(path=str(code), exclude=("pack1/*",))
    first = source.state()
    CHANGES["content"](code)
    assert source.state() == first
    assert len(walked) == 1
    assert FolderSource(path=str(code)).state() != first


def test_a_copy_elsewhere_has_the_same_state(code: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(code), str(tmp_path / "copy")], check=True)
    assert FolderSource(path=str(tmp_path / "copy")).state() == FolderSource(path=str(code)).state()


def test_links_and_closed_files_have_states_of_their_own(code: Path) -> None:
    source = FolderSource(path=str(code))
    states = [source.state()]
    (code / "link").symlink_to("pack1/m1.py")
    states.append(source.state())
    (code / "link").unlink()
    (code / "link").symlink_to("pack2/m2.py")
    states.append(source.state())
    assert len(set(states)) == 3


def test_files_of_tables_are_what_they_hold(tmp_path: Path) -> None:
    path = trees.write_json_lines(tmp_path / "a.jsonl", [{"content": "x = 1\n", "path": "a.py"}])
    source = JsonLinesSource(path=str(path))
    first = source.state()
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert source.state() == first
    path.write_text(path.read_text().replace("x = 1", "x = 2"))
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert source.state() != first


def collecting(root: Path, code: Path) -> Recipe:
    config = {"sources": [{"kind": "folder", "path": str(code)}]}
    return Recipe.model_validate(
        {"name": "r", "root": str(root), "steps": [{"name": "collected", "run": "data_jobs.collect", "config": config}]}
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_what_was_collected_when_dates_mattered_is_not_stale_for_that(tmp_path: Path, code: Path) -> None:
    timed = dataclasses.replace(STEP, source_state=lambda config: STEP.earlier_states(config)[0])  # type: ignore[misc]
    config = CollectConfig.model_validate(collecting(tmp_path / "root", code).steps[0].config)
    made = run_step(timed, config, root=str(tmp_path / "root"), name="collected")
    (status,) = resolve(collecting(tmp_path / "root", code))
    assert (status.state, status.fingerprint) == (State.DONE, made.fingerprint)
    os.utime(code / "pack1" / "m1.py", (LONG_AGO, LONG_AGO))
    (status,) = resolve(collecting(tmp_path / "root", code))
    assert status.state is State.STALE
    anew = run_step(STEP, config, root=str(tmp_path / "root"), name="collected")
    assert anew.manifest.files == made.manifest.files
    os.utime(code / "pack2" / "m2.py", (LONG_AGO, LONG_AGO))
    (status,) = resolve(collecting(tmp_path / "root", code))
    assert status.state is State.DONE


@pytest.mark.parametrize(
    "module", ["data_jobs.collect", "data_jobs.use_tokenizer", "train_jobs.finetune", "train_jobs.evolve"]
)
def test_steps_that_looked_at_dates_still_know_them(module: str) -> None:
    assert load_step(module).earlier_states is not None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab/*.?[]", max_size=8), st.text("ab/.", max_size=6), st.text("ab/.", min_size=1, max_size=6))
def test_what_is_below_a_wholly_excluded_folder_is_excluded(pattern: str, folder: str, below: str) -> None:
    if wholly_excluded(f"{folder}/", (pattern,)):
        assert excluded(f"{folder}/{below}", (pattern,))


def test_folders_that_a_pattern_leaves_a_part_of_are_walked() -> None:
    assert wholly_excluded("site-packages/", ("*.so", "site-packages/*"))
    assert wholly_excluded("config-3/", ("config-*",))
    assert not wholly_excluded("lib/", ("*.so", "lib/a*", "lib"))
