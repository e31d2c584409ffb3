"""Look-ups hold against brute force, and answer whatever a client may send."""

import keyword
import random
import re
import sysconfig
from pathlib import Path

import pyarrow as pa
import pytest

from starloom.attribution.lookup import WITHOUT_END, Found, look_up
from starloom.attribution.segment import Segment, build
from starloom.errors import RunError
from starloom.segmentfiles import FILES

SOLID = 24


def rows(names: list[str], language: str = "Python") -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"shard": "part-00000.parquet", "row": n, "id": name, "repo_name": "o/r", "path": name, "kind": "file",
             "language": language, "licenses": ["MIT"], "commit": None}
            for n, name in enumerate(names)
        ],
        schema=FILES,
    )  # fmt: skip


def made(folder: Path, texts: list[str], language: str = "Python") -> Segment:
    build(folder, texts, rows([f"file-{n}.py" for n in range(len(texts))], language))
    return Segment(folder)


@pytest.fixture(scope="module")
def code() -> list[str]:
    """Forty modules of the standard library."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))[:80:2]]


@pytest.fixture(scope="module")
def segments(code: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    folder = tmp_path_factory.mktemp("segments")
    return [made(folder / "0", code[:20]), made(folder / "1", code[20:])]


def ask(segments: list[Segment], text: str, **more: object) -> Found:
    return look_up(segments, text.encode("utf-8", "surrogatepass"), **more)  # type: ignore[arg-type]


def windows(code: list[str], size: int, count: int) -> list[tuple[int, str]]:
    """Passages that have enough bytes that are not blank, and the number of their file.

    Rulers are left out: of a window that a file repeats, four places are looked at.
    """
    generator = random.Random(size)
    found = []
    while len(found) < count:
        number = generator.randrange(len(code))
        start = generator.randrange(max(1, len(code[number]) - size))
        text = code[number][start : start + size]
        if len(set(text)) < 8:
            continue
        if len(text) == size and not text[0].isspace() and len("".join(text.split()).encode()) >= SOLID:
            found.append((number, text))
    return found


@pytest.mark.parametrize("size", [50, 80, 200])
def test_every_passage_is_found_with_its_file(segments: list[Segment], code: list[str], size: int) -> None:
    for number, text in windows(code, size, 150):
        found = ask(segments, text, budget=WITHOUT_END)
        whole = [match for match in found.matches if (match.start, match.end) == (0, len(text.encode()))]
        assert whole, text
        assert whole[0].kind == "exact"
        files = {place.segment * 20 + place.file for place in whole[0].places}
        assert files == {n for n, other in enumerate(code) if text in other} | files
        assert number in files


def test_a_passage_stands_where_it_says(segments: list[Segment], code: list[str]) -> None:
    _, text = windows(code, 200, 1)[0]
    match = ask(segments, f"# before\n{text}\n# after").matches[0]
    place = match.places[0]
    segment = segments[place.segment]
    held = bytes(segment.text[place.first : place.stop]).decode()
    assert text.strip() in held
    first, last = segment.lines(place.file, place.first, place.stop)
    assert held.strip("\n").splitlines()[0] in segment.text_of(place.file).splitlines()[first - 1]
    assert last - first == held.rstrip("\n").count("\n")


def test_other_blanks_are_told_and_hide_nothing(segments: list[Segment], code: list[str]) -> None:
    for number, text in windows(code, 200, 40):
        spread = re.sub(r"\s+", lambda blank: blank[0] + " ", text)
        found = ask(segments, spread, kinds=("exact", "white_space"))
        best = max(found.matches, key=lambda match: match.end - match.start)
        assert best.end - best.start >= 0.9 * len(spread.encode())
        assert number in {place.segment * 20 + place.file for place in best.places}


def renamed(text: str) -> str:
    """Every name that is no keyword gets a new one, consistently."""
    names: dict[str, str] = {}
    known = {*keyword.kwlist, "self", "print", "range", "map"}
    return re.sub(
        r"[A-Za-z_]\w*", lambda word: word[0] if word[0] in known else names.setdefault(word[0], f"v{len(names)}"), text
    )


def test_code_with_other_names_is_found(segments: list[Segment]) -> None:
    text = """
    def remove(self, value, key, fallback):
        entry = self.table.get(key)
        while entry is not None and entry.value != value:
            entry = entry.next
            if entry is fallback:
                raise KeyError(key)
        self.count -= 1
        return entry.value + self.count * 2
"""
    folder = segments[0].folder.parent / "one"
    mine = made(folder, [f"import os\n# a comment\n{text}\n"])
    changed = renamed(text)
    match = ask([mine], changed, language="Python").matches[0]
    assert match.kind == "renamed"
    assert match.end - match.start > 0.8 * len(changed)
    without = ask([mine], text.replace("        while", "        # look on\n        while"), language="Python")
    assert "comments" in {match.kind for match in without.matches}
    assert (
        ask([mine], text.replace("entry = entry.next", "entry = other.next").replace("value", "v")).complete is not None
    )
    swapped = text.replace("value", "%").replace("key", "value").replace("%", "key")
    assert "renamed" in {match.kind for match in ask([mine], swapped, language="Python").matches}


def test_names_that_are_no_bijection_are_no_match(tmp_path: Path) -> None:
    text = "def f(a, b, c):\n    x = a + b * c - a / b\n    y = x * a + b - c * x\n    return [x, y, a, b, c, x + y]\n"
    mine = made(tmp_path / "s", [text])
    one_for_two = re.sub(r"\bb\b", "a", text)
    found = ask([mine], one_for_two, language="Python", kinds=("renamed",))
    assert all(match.end - match.start < len(one_for_two) / 2 for match in found.matches)


@pytest.mark.parametrize("text", ["", " ", "\n" * 500, "x" * 23, "a b c " * 7, "\x00" * 10, "\ud83d"])
def test_what_is_too_little_is_no_match(segments: list[Segment], text: str) -> None:
    assert ask(segments, text) == Found((), complete=True)


def test_a_whole_file_is_one_span_and_none_crosses_two(tmp_path: Path) -> None:
    one = "def first():\n    return 'the first of two files, nothing else'\n"
    two = "class Second:\n    name = 'the second one comes after it here'\n"
    mine = made(tmp_path / "s", [one, two, "tiny"])
    found = ask([mine], one + two, kinds=("exact",))
    assert [(match.start, match.end) for match in found.matches] == [(0, len(one)), (len(one), len(one + two))]
    assert [place.file for match in found.matches for place in match.places] == [0, 1]
    assert found.spans() == [(0, len(one + two))]


def test_line_ends_and_tabs_are_blanks(tmp_path: Path) -> None:
    text = "def first(a, b):\n    if a > b:\n        return a - b\n    return b - a + 1000\n"
    mine = made(tmp_path / "s", [text])
    for other in (text.replace("\n", "\r\n"), text.replace("    ", "\t"), "\ufeff" + text):
        match = ask([mine], other, kinds=("exact", "white_space")).matches[0]
        assert match.end - match.start >= len(other.encode()) - 4


def test_work_is_bounded_and_says_so(tmp_path: Path) -> None:
    header = "# Licensed under the Apache License, Version 2.0 (the License); you may not use this file except so\n"
    mine = made(tmp_path / "s", [f"{header}x = {n}\n" for n in range(5000)])
    found = ask([mine], header * 40)
    assert not found.complete
    assert len(found.matches[0].places) > 100
    for hostile in ("=" * 4000, "0, " * 1500, "}\n" * 2000):
        ask([mine], hostile)  # ends


def test_hidden_files_are_in_no_answer(segments: list[Segment], code: list[str]) -> None:
    number, text = windows(code, 200, 3)[2]
    segment = segments[number // 20]
    segment.hidden[number % 20] = 1
    try:
        found = ask(segments, text)
        assert all(
            (place.segment, place.file) != (number // 20, number % 20) for m in found.matches for place in m.places
        )
    finally:
        segment.hidden[:] = 0


def test_a_file_that_was_cut_is_told(tmp_path: Path) -> None:
    made(tmp_path / "s", ["def first():\n    return 'something that is long enough'\n"])
    (tmp_path / "s/solid.pos").write_bytes(b"")
    with pytest.raises(RunError, match=r"solid\.pos: 0 bytes, .* the index is damaged"):
        Segment(tmp_path / "s")
