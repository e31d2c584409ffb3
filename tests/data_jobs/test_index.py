"""The index of a corpus: the same bytes whatever the tasks, resumed, taken over, and asked from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_jobs import collect, curate, index
from data_jobs import filter as quality_filter
from starloom.artifact import Artifact
from starloom.attribution.answer import Index, Query
from starloom.attribution.command import attribute, lookup
from starloom.attribution.owners import Owners
from starloom.config import validate
from starloom.errors import UserError
from starloom.kinds import Attribution
from starloom.step import Step, run_step

pytestmark = pytest.mark.slow

ADD = """\
def add_all(numbers, start):
    total = start
    for number in numbers:
        total += number * 2
    return total
"""
MARK = """\
class Marker:
    def place(self, x, y, colour):
        self.points.append((x, y, colour))
        return self
"""
FILES = {"ann/tools": ADD, "bob/draw": MARK, "ann/copy": ADD + "\n\nprint(add_all([1], 2))\n"}


@pytest.fixture(scope="module")
def root(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for owner, name, text in (
        ("ann", "tools", ADD),
        ("bob", "draw", MARK),
        ("ann", "copy", ADD + "\n\nprint(add_all([1], 2))\n"),
    ):
        place = folder / "code" / owner / name
        place.mkdir(parents=True)
        (place / "main.py").write_text(text + f"# of {owner}\n" * 4)
        (place / "LICENSE").write_text("MIT License\n")
        (place / "empty.py").write_text("")
    return folder


def made(root: Path, name: str, **settings: object) -> Attribution:
    sources = [
        {"kind": "folder", "path": str(root / "code" / owner), "repositories": "children"} for owner in ("ann", "bob")
    ]
    done: list[Artifact] = []

    def step(which: Step, called: str, values: dict[str, object], *needs: Artifact) -> Artifact:
        config = validate(which.config, values, where=called)
        done.append(run_step(which, config, root=str(root / "run"), name=called, needs=list(needs)))
        return done[-1]

    collected = step(collect.STEP, "collected", {"sources": sources, "shard_megabytes": 0.0005})
    quality = step(quality_filter.STEP, "quality", {"rules": []}, collected)
    corpus = step(curate.STEP, "corpus", {}, collected, quality)
    return Attribution(step(index.STEP, name, settings, corpus))


def test_answers_name_file_lines_and_licence(root: Path) -> None:
    view = made(root, "index")
    opened = Index.open(view)
    answer = opened.ask(Query("x = 1\n" + ADD))
    match = answer["matches"][0]
    assert match["kind"] == "exact"
    assert match["count"] == 2
    assert {file["repository"] for file in match["files"]} == {"tools", "copy"}
    assert all(file["path"] == "main.py" and file["lines"] == [1, 5] for file in match["files"])
    assert answer["spans"] == [[6, 6 + len(ADD)]]
    # the team's own repositories are no answer
    assert opened.ask(Query(ADD, ignore=("tools",)))["matches"][0]["count"] == 1


def test_offsets_are_in_the_units_that_are_asked_for(root: Path) -> None:
    opened = Index.open(made(root, "index"))
    before = "# \U0001f600é\n"
    spans = {
        unit: opened.ask(Query(before + MARK, offsets=unit))["spans"][0][0]
        for unit in ("utf-8", "utf-16", "code-points")
    }  # type: ignore[arg-type]
    assert spans == {"utf-8": 9, "utf-16": 6, "code-points": 5}


def test_segments_are_the_same_bytes_and_are_taken_over(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made(root, "index")
    again = made(root, "again")
    for name in one.segments():
        for file in one.artifact.files(name):
            assert Path(one.artifact.path(file)).read_bytes() == Path(again.artifact.path(file)).read_bytes()
    # another name of the step is another one; a changed config of the same step takes its segments over
    capsys.readouterr()
    other = made(root, "index", segment_megabytes=255)
    assert other.artifact.fingerprint != one.artifact.fingerprint
    assert "are those of the index before" in capsys.readouterr().out


def test_rows_that_leave_a_shard_move_no_other_to_another_segment() -> None:
    class Sized:
        def __init__(self, sizes: list[int]) -> None:
            self.sizes = {f"part-{n:05d}": size for n, size in enumerate(sizes)}

    def grouped(sizes: list[int], monkey: pytest.MonkeyPatch) -> list[list[str]]:
        monkey.setattr(index, "_text_bytes", lambda corpus, shard: corpus.sizes[shard])
        corpus = Sized(sizes)
        corpus.shards = lambda: list(corpus.sizes)  # type: ignore[attr-defined]
        return index._grouped(corpus, 32)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as monkey:
        before = grouped([8] * 20, monkey)
        assert [len(group) for group in before] == [4] * 5
        after = grouped([8] * 5 + [1, 0] + [8] * 13, monkey)
    assert [group for group in after if group not in before] == [["part-00004", "part-00005", "part-00007"]]


def test_people_and_files_are_looked_up(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = made(root, "index")
    opened = Index.open(view)
    owners = Owners(view, opened)
    assert [row["files"] for row in owners.ask(owner="Tools")["repositories"]] == [1]
    found = owners.ask(repository="draw")
    assert found["in_corpus"]
    assert {row["path"] for row in found["files"] if not row["in_corpus"]} == {"empty.py", "LICENSE"}
    assert not owners.ask(owner="nobody")["in_corpus"]
    with pytest.raises(UserError, match="name what to look up"):
        owners.ask()
    without = replace(opened, withdrawn=lambda: frozenset({"draw"}))
    assert not Owners(view, without).ask(repository="draw")["in_corpus"]
    assert not without.ask(Query(MARK))["matches"]
    assert lookup([str(root / "run"), "tools"]) == 0
    assert "tools: 1 files" in capsys.readouterr().out
    assert lookup([str(root / "run"), "nobody"]) == 1


def test_the_command_tells_lines_and_files(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(root, "index")
    file = tmp_path / "mine.py"
    file.write_text("import os\n\n" + MARK)
    capsys.readouterr()
    assert attribute([str(root / "run"), str(file)]) == 1
    printed = capsys.readouterr().out
    assert "lines 3–6" in printed
    assert "draw/main.py lines 1–4" in printed
    assert attribute([str(root / "run"), str(file), "--json", "--ignore", "draw"]) == 0
    assert json.loads(capsys.readouterr().out)["matches"] == []
    file.write_text("print('nothing that anybody has written before')\n")
    assert attribute([str(root / "run"), str(file)]) == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (None, "document: give the text"),
        ({"document": 3}, "document: give the text"),
        ({"document": "x", "files": 3}, "'files' is not known"),
        ({"document": "x" * 100_001}, "100,001 characters are more than 100,000"),
        ({"document": "x", "minimum_characters": 3}, "minimum_characters: 3 is not a number from 24"),
        ({"document": "x", "offsets": "bytes"}, "offsets: 'bytes' is not one of"),
        ({"document": "x", "kinds": ["same"]}, "kinds: "),
        ({"document": "x", "kinds": "exact"}, "kinds: give a list"),
        ({"document": "x", "language": "Klingon"}, "language: it is not known"),
    ],
)
def test_queries_that_are_none_are_told(body: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Query.of(body)


def test_half_a_surrogate_pair_is_text() -> None:
    assert Query.of({"document": "\ud83d"}).document == "\ud83d"


def test_a_damaged_segment_is_told_when_it_is_opened(root: Path) -> None:
    view = made(root, "damaged")
    path = Path(view.artifact.path(next(iter(view.segments())))) / "text.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"text\.bin has"):
        Index.open(Attribution(Artifact.open(view.artifact.folder)))
