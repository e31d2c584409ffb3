"""The pages against the program: commands, options, recipes, files, links; and every example is run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from starloom.cli import COMMANDS, DELEGATED
from starloom.recipe import builtin_recipes
from tests.docs.commands import PAGE, helps, options, page
from tests.docs.rooms import ROOMS, ROOT, with_listing
from tests.patience import PATIENCE

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / name for name in ROOMS),
    *sorted((ROOT / "platform" / "docs").glob("*.md")),
]


@pytest.mark.parametrize("name", ROOMS)
def test_readme_lists_the_files_of_its_room(name: str) -> None:
    text = (ROOT / name).read_text()
    assert with_listing(text, ROOT / ROOMS[name]) == text, "run python -m tests.docs.rooms"


def test_readme_names_every_command_with_its_own_words() -> None:
    table = dict(re.findall(r"\| `starloom ([\w-]+)[^`]*` \| (.*) \|", (ROOT / "README.md").read_text()))
    assert table.keys() == COMMANDS.keys() | DELEGATED.keys()
    for name, words in table.items():
        assert words == (COMMANDS[name].help if name in COMMANDS else DELEGATED[name][2])


def test_readme_names_every_recipe() -> None:
    rows = re.findall(r"^\| ((?:`[\w.-]+`(?:, )?)+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = [re.findall(r"`([\w.-]+)`", row) for row in rows]
    whole = {one for first, *rest in named for one in (first, *(first.removesuffix("-1b") + size for size in rest))}
    assert whole == set(builtin_recipes())


def test_page_of_commands_is_what_the_program_prints() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.docs.commands"


def test_options_that_pages_name_are_those_of_the_commands() -> None:
    known = options("".join(helps().values())) | {"--config", "--show", "--help"}
    foreign = {
        "--working-dir",
        "--address",
        "--input",
        "--output",
        "--follow",
    }  # ray's, and the tools' of a folder below
    for path in PAGES:
        starloom = [line for line in path.read_text().splitlines() if "starloom " in line and "`ray" not in line]
        assert options("\n".join(starloom)) <= known | foreign, path.name


def test_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = "\n".join(path.read_text() for path in PAGES)
    named = re.findall(r"^make ([a-z][\w-]*)|&& make ([a-z][\w-]*)|`make ([a-z][\w -]*)`", pages, re.MULTILINE)
    assert {word for found in named for word in " ".join(found).split()} <= targets


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve()
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@dataclass
class Example:
    """Files that a page gives, and the commands that try them."""

    files: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)


def examples(text: str) -> Iterator[Example]:
    """Code blocks whose first line names a file, up to the next block of commands."""
    current = Example()
    for language, body in re.findall(r"```(python|toml|sh)\n(.*?)```", text, re.DOTALL):
        if language == "sh":
            current.commands = body.strip().split("\n")
            yield current
            current = Example(current.files)
        else:
            current.files[re.match(r"# (\S+)\n", body)[1]] = body  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOMS)
def test_every_example_of_a_rooms_readme_works(name: str, tmp_path: Path) -> None:
    found = list(examples((ROOT / name).read_text()))
    assert found
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'platform'}"}
    environment.pop("RAY_ADDRESS", None)
    for example in found:
        for file, body in example.files.items():
            (tmp_path / file).write_text(body)
        for command in example.commands:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
