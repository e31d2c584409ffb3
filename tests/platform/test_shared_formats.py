"""The small shared pieces: JSON lines, tables, plug-ins by name, files by pattern, fields that came later."""

import errno
import gzip
import importlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom import jsonlines, plugins, storage
from starloom.config import Config, added, runtime
from starloom.errors import RunError, UserError, one_line
from starloom.markdown import table
from starloom.storage import matching_files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5), st.booleans())
def test_json_lines_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, records, packed) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    text = "".join(map(jsonlines.dump, records)).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    assert [record for _, record in jsonlines.read(path)] == records
    if not packed:
        assert jsonlines.read_log(path) == records


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"a": 1}\n{oops\n', ":2: is not JSON"),
        (b"[1]\n", ":1: is not an object"),
        (b'{"a": "\xff"}\n', ":1: is not UTF-8"),
        (b"\x1f\x8bbroken", "cannot be read"),
        (b"[" * 100_000, ":1: is not JSON"),
    ],
)
def test_broken_json_lines_are_told_with_their_place(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        list(jsonlines.read(tmp_path / "a.jsonl"))
    assert "\n" not in str(error.value)


def test_fault_of_the_machine_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(storage, "open_file", broken)
    with pytest.raises(RunError, match=r"a\.jsonl: cannot be read .*Input/output error"):
        list(jsonlines.read(tmp_path / "a.jsonl"))


def test_byte_order_mark_and_blank_lines_are_no_records_and_lines_are_counted_with_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": 2}')
    places = [(where.rpartition(":")[2], record) for where, record in jsonlines.read(tmp_path / "a.jsonl")]
    assert places == [("1", {"a": 1}), ("4", {"b": 2})]


def test_log_torn_by_a_kill_loses_its_last_line_alone(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert jsonlines.read_log(tmp_path / "log.jsonl") == [{"a": 1}, {"a": 2}]
    assert jsonlines.read_log(tmp_path / "none.jsonl") == []


def test_table_cell_stays_one_cell_whatever_is_in_it() -> None:
    lines = table(("a", "b"), [("x|y", "1\n2")], numbers=True).split("\n")
    assert lines == ["| a | b |", "| --- | ---: |", "| x\\|y | 1 2 |"]


def test_plugin_is_built_in_or_module_and_attribute() -> None:
    known = {"one": 1}
    assert plugins.load("one", known, what="numbers") == 1
    assert plugins.load("math:pi", {}, what="numbers") == pytest.approx(3.14159, rel=1e-5)
    for name, complaint in {
        "two": "numbers: 'two' is not one of one; one of your own is 'module:attribute'",
        "math:tau2": "cannot be imported",
        "nowhere:a": "No module named 'nowhere'",
    }.items():
        with pytest.raises(UserError, match=complaint):
            plugins.load(name, known, what="numbers")


@pytest.mark.parametrize("old", sorted(plugins.MOVED))
def test_module_that_has_moved_is_answered_with_its_new_place(old: str) -> None:
    importlib.import_module(plugins.MOVED[old])
    with pytest.raises(UserError, match=f"{old} is now {plugins.MOVED[old]}"):
        plugins.load(f"{old}:anything", {}, what="rules")


def test_path_with_brackets_is_itself_before_it_is_a_pattern(tmp_path: Path) -> None:
    for name in ("a[1].txt", "a1.txt"):
        (tmp_path / name).write_text(name)
    assert matching_files(str(tmp_path / "a[1].txt"), setting="x") == [str(tmp_path / "a[1].txt")]
    assert matching_files(str(tmp_path / "a*.txt"), setting="x") == [str(tmp_path / n) for n in ("a1.txt", "a[1].txt")]
    with pytest.raises(UserError, match=r"^sources: .*no such archive"):
        matching_files(str(tmp_path / "none"), setting="sources", what="archive")


def test_field_that_came_later_is_in_the_fingerprint_only_where_it_is_set() -> None:
    class Old(Config):
        a: int = 1

    class New(Config):
        a: int = 1
        b: str = added("as before")
        c: int = runtime(3)

    assert New().identity() == Old().identity()
    assert New(b="other").identity() == {"a": 1, "b": "other"}


def test_error_is_one_line_of_bounded_length() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert len(one_line("x" * 1000)) == 300
