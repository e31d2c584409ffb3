"""Readers of every kind of source, and the damage that they must survive."""

import bz2
import errno
import gzip
import hashlib
import json
import lzma
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from data_jobs.sources import entries, issues, tables, walks
from data_jobs.sources.archive import ArchiveSource
from data_jobs.sources.entries import Item, LicenseFile
from data_jobs.sources.folder import FolderSource
from data_jobs.sources.git import GitSource
from data_jobs.sources.history import Change, GitHistorySource, refusal_of, windowed
from data_jobs.sources.issues import GitHubIssuesSource
from data_jobs.sources.names import safe_member
from data_jobs.sources.pickles import PickleFile
from data_jobs.sources.tables import JsonLinesSource, ParquetSource
from starloom import storage
from starloom.errors import RunError, StorageError, UserError
from starloom.records import split_parts
from tests.data_jobs import source_trees as trees


def test_folder_with_links_and_strange_names_refuses_them_and_keeps_the_rest(tmp_path: Path) -> None:
    trees.write_files(tmp_path / "code", {"a.py": "x = 1\n", "deep/b.py": "y = 2\n", ".git/config": "no"})
    os.symlink(tmp_path / "code", tmp_path / "code" / "loop")
    Path(os.fsdecode(os.fsencode(tmp_path / "code") + b"/\xff.py")).write_text("z = 3\n")
    items, refusals = trees.read_all(FolderSource(path=str(tmp_path / "code")), tmp_path / "spilled")
    assert sorted(items) == ["a.py", "deep/b.py"]
    assert {path: refusal.reason for path, refusal in refusals.items()} == {
        "loop": "symlink",
        "\\xff.py": "path_not_utf8",
    }


def test_folder_file_that_vanishes_after_listing_is_refused(tmp_path: Path) -> None:
    trees.write_files(tmp_path / "code", {"a.py": "x = 1\n"})
    units = trees.units_of(FolderSource(path=str(tmp_path / "code")), tmp_path)
    (tmp_path / "code" / "a.py").unlink()
    assert [one.reason for unit in units for one in unit.read(trees.LIMITS)] == ["unreadable"]  # type: ignore[union-attr]
    (tmp_path / "code").rmdir()  # a node without the mount: no file is wrong
    with pytest.raises(StorageError, match="no file is left out"):
        list(units[0].read(trees.LIMITS))


def test_folder_lists_in_the_order_of_repositories_and_paths(tmp_path: Path) -> None:
    names = ["a.py", "a/b.py", "a-b/c.py", "a/b/c.py", "a/b.c/d.py", "a/b-c.py", "b.py", "B/x.py", "a0/y.py"]
    trees.write_files(tmp_path, dict.fromkeys(names, "x = 1\n"))
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    for repositories in ("whole", "children"):
        source = FolderSource(path=str(tmp_path), repositories=repositories)  # type: ignore[arg-type]
        found = [item for unit in trees.units_of(source, tmp_path) for item in unit.read(trees.LIMITS)]
        places = [(item.repo_name, item.path) for item in found]
        assert places == sorted(places)
        assert len(places) == len(names) + 1


@pytest.mark.slow
def test_folder_of_very_many_files_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "RUN_NAMES", 1000)
    monkeypatch.setattr(walks, "RUN_BATCH", 50)
    for number in range(20_000):
        (tmp_path / f"file-{number * 7919 % 20_000:05d}.py").touch()
    source = FolderSource(path=str(tmp_path))
    tracemalloc.start()
    try:
        last, count = "", 0
        for unit in trees.listed(source, tmp_path):
            (item,) = unit.read(trees.LIMITS)  # type: ignore[union-attr]
            assert item.path > last
            last, count = item.path, count + 1
        state = source.state()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 2 << 20  # a list of all of them takes more than 10 MB
    monkeypatch.undo()
    assert source.state() == state


def test_folder_state_changes_with_a_file(tmp_path: Path) -> None:
    trees.write_files(tmp_path, {"a.py": "x = 1\n"})
    source = FolderSource(path=str(tmp_path))
    before = source.state()
    assert source.state() == before
    trees.write_files(tmp_path, {"a.py": "x = 12\n"})
    assert source.state() != before


def test_git_reads_a_bare_repository_at_a_ref_with_its_licence(tmp_path: Path) -> None:
    folder = tmp_path / "owner" / "tool.git"
    trees.commit_files(
        folder, [("one", {"src/a.py": "x = 1\n"}), ("two", {"src/b.py": "y = 2\n", "LICENSE": trees.MIT})]
    )
    items, refusals = trees.read_all(GitSource(path=str(folder)), tmp_path)
    assert sorted(items) == ["LICENSE", "src/a.py", "src/b.py"]
    assert refusals == {}
    assert items["src/a.py"].repo_name == "owner/tool"
    assert len(items["src/a.py"].commit or "") == 40
    for source in (GitSource(path=str(folder)), GitHistorySource(path=str(folder))):
        evidence = [one for one in trees.listed(source, tmp_path) if isinstance(one, LicenseFile)]
        assert [(one.scope, one.path, one.text) for one in evidence] == [(str(folder), "LICENSE", trees.MIT)]
    with pytest.raises(UserError, match="no-such-branch"):
        GitSource(path=str(folder), ref="no-such-branch").state()
    first = GitSource(path=str(folder), ref="main~1")
    assert sorted(trees.read_all(first, tmp_path)[0]) == ["src/a.py"]


def test_git_with_a_corrupt_object_refuses_that_file_alone(tmp_path: Path) -> None:
    folder = trees.commit_files(tmp_path / "tool.git", [("one", {"a.py": "x = 1\n", "b.py": "y = 2\n"})])
    (unit,) = trees.units_of(GitSource(path=str(folder)), tmp_path)
    blob = next(blob for blob in unit.blobs if blob.path == "b.py")  # type: ignore[attr-defined]
    damaged = folder / "objects" / blob.oid[:2] / blob.oid[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"this is no zlib stream")
    item, refusal = unit.read(trees.LIMITS)
    assert (item.path, getattr(refusal, "reason", "")) == ("a.py", "corrupt_git_object")
    items, refusals = trees.read_all(GitSource(path=str(folder)), tmp_path / "spilled")
    assert sorted(items) == ["a.py"]
    assert refusals["b.py"].reason == "corrupt_git_object"


def test_git_source_of_a_plain_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a git repository"):
        GitSource(path=str(tmp_path)).state()


def test_history_gives_single_file_commits_and_counts_the_others(tmp_path: Path) -> None:
    long = trees.program("alpha", 40)
    folder = trees.commit_files(
        tmp_path / "tool.git",
        [
            ("Add two files for the sum", {"a.py": long, "b.py": "y = 2\n"}),
            (
                "Return the double of the total here",
                {
                    "a.py": long.replace(
                        "return total", "total *= 2\n    total += 1\n    total -= 3\n    total //= 4\n    return total"
                    )
                },
            ),
            ("update readme", {"README.md": "hello\n"}),
        ],
    )
    items, refusals = trees.read_all(GitHistorySource(path=str(folder)), tmp_path / "spilled")
    assert sorted(refusal.reason for refusal in refusals.values()) == ["boilerplate_subject", "several_files"]
    (item,) = items.values()
    parts = {part.role: part.text for part in split_parts(str(item.content))}
    assert item.kind == "commit"
    assert parts["message"] == "Return the double of the total here"
    assert "total *= 2" in parts["after"]
    assert "total *= 2" not in parts["before"]


def test_commit_window_reaches_around_the_change_and_not_to_the_first_line() -> None:
    lines = [f"line {n}\n" for n in range(400)]
    changed = [*lines[:300], "new\n", *lines[301:]]
    change = Change("c0ffee", "Change the line in question", "a.py", "".join(lines), "".join(changed))
    rules = GitHistorySource(path="x", whole_file_share=0)
    commit = windowed(change, rules)
    before, after = commit.before, commit.after
    assert "line 300\n" in before
    assert "new\n" in after
    assert "line 0\n" not in before
    assert before.count("\n") <= 1 + 2 * rules.window_lines


@pytest.mark.parametrize(
    ("message", "before", "after", "reason"),
    [
        ("Explain how the cache is emptied", "a\n", "a\nb\nc\nd\n", None),
        ("Explain how the cache is emptied", "a\n", " \n", "empty_after"),
        ("Explain how the cache is emptied", "x" * 100_000, "a\n", "old_file_too_large"),
        ("bump version to 1.2.3", "a\n", "b\nc\nd\n", "boilerplate_subject"),
        ("Merge branch 'main'", "a\n", "b\nc\nd\n", "boilerplate_subject"),
        ("supercalifragilisticexpialidocious_x", "a\n", "b\nc\nd\n", "long_words_in_subject"),
    ],
)
def test_commit_rules(message: str, before: str, after: str, reason: str | None) -> None:
    assert refusal_of(Change("c0ffee", message, "a.py", before, after), GitHistorySource(path="x")) == reason


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_tar_of_any_compression_is_read_below_its_top_folder(tmp_path: Path, suffix: str) -> None:
    mode = "w:" + {".tar": "", ".tar.gz": "gz", ".tar.bz2": "bz2", ".tar.xz": "xz"}[suffix]
    path = tmp_path / f"tool-1.0{suffix}"
    trees.write_tar(path, {"tool-1.0/a.py": b"x = 1\n", "tool-1.0/LICENSE": trees.MIT.encode()}, mode)
    source = ArchiveSource(path=str(path))
    items, refusals = trees.read_all(source, tmp_path / "spilled")
    assert {name: item.repo_name for name, item in items.items()} == {"a.py": "tool-1.0", "LICENSE": "tool-1.0"}
    assert refusals == {}
    evidence = [one for one in trees.listed(source, tmp_path / "spilled") if isinstance(one, LicenseFile)]
    assert [(one.scope, one.path) for one in evidence] == [(str(path), "LICENSE")]


def test_archive_is_read_once_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"p/{n}.py": trees.program(f"f{n}", 4000).encode() for n in range(60)}  # 12 MB
    path = trees.write_tar(tmp_path / "p.tar.gz", members)
    opened: list[str] = []
    real = storage.open_file

    def watched(location: str, mode: str = "rb") -> object:
        opened.append(location)
        return real(location, mode)

    monkeypatch.setattr(storage, "open_file", watched)
    units = trees.units_of(ArchiveSource(path=str(path)), tmp_path / "spilled")
    assert len(units) > 2
    found = {item.path: item.content for unit in units for item in unit.read(trees.LIMITS) if isinstance(item, Item)}
    assert found == {name.removeprefix("p/"): content for name, content in members.items()}
    assert opened.count(str(path)) == 1


def test_two_archives_of_one_name_share_no_licence(tmp_path: Path) -> None:
    for owner, files in (("alice", {"LICENSE": trees.MIT.encode()}), ("bob", {})):
        (tmp_path / owner).mkdir()
        trees.write_zip(tmp_path / owner / "tools-main.zip", {"tools-main/a.py": b"x = 1\n", **files})
    found = list(trees.listed(ArchiveSource(path=str(tmp_path / "*" / "tools-main.zip")), tmp_path / "spilled"))
    scopes = {one.scope for one in found}
    assert len(scopes) == 2
    assert {one.scope for one in found if isinstance(one, LicenseFile)} == {str(tmp_path / "alice" / "tools-main.zip")}


def test_large_row_group_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGEST_GROUP", 1 << 20)
    monkeypatch.setattr(entries, "UNIT_BYTES", 1 << 20)
    texts = [trees.program(f"f{n}", 400) for n in range(400)]
    columns = {"content": texts, "path": [f"{n}.py" for n in range(400)]}
    path = trees.write_parquet(tmp_path / "a.parquet", columns, rows_per_group=400)
    units = trees.units_of(ParquetSource(path=str(path)), tmp_path / "spilled")
    assert len(units) > 5
    assert max(unit.size for unit in units) <= 1 << 20
    assert [item.path for unit in units for item in unit.read(trees.LIMITS)] == columns["path"]


def test_issues_are_shuffled_once_and_not_scanned_by_every_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issues, "BYTES_PER_UNIT", 4000)
    monkeypatch.setattr(issues, "SEGMENT_BYTES", 3000)
    body = "A long report of what went wrong and how it can be seen again. " * 20
    for file in range(3):
        events = [trees.event("o/r", n, f"user{file}", body, comment=file + 1) for n in range(12)]
        trees.write_json_lines(tmp_path / f"{file}.json.gz", events)
    source = GitHubIssuesSource(path=str(tmp_path / "*.json.gz"))
    units = trees.units_of(source, tmp_path / "spilled")
    found = [item for unit in units for item in unit.read(trees.LIMITS) if isinstance(item, Item)]
    assert sorted(item.path for item in found) == sorted(f"issues/{n}" for n in range(12))
    assert all(len(split_parts(str(item.content))) == 5 for item in found)  # title, opening and three comments
    (tmp_path / "0.json.gz").unlink()  # nothing is read of the files any more
    assert [item for unit in units for item in unit.read(trees.LIMITS)] == found


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl.bz2", bz2.compress),
        ("a.jsonl.xz", lzma.compress),
        ("a.jsonl.zst", lambda content: pa.compress(content, codec="zstd", asbytes=True)),
        ("a.json", bytes),
        ("a.json.gz", gzip.compress),
    ],
)
def test_packed_lines_and_arrays_are_read(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    rows = [
        {"text": trees.program(f"f{n}", 300), "path": f"{n}.py", "meta": {"repo": {"name": "o/r"}}} for n in range(300)
    ]
    array = json.dumps(rows, indent=1).encode()
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    folder = tmp_path / "language=Python"
    folder.mkdir()
    (folder / name).write_bytes(pack(lines if "jsonl" in name else array))
    source = JsonLinesSource(path=str(tmp_path), columns={"repo_name": "meta.repo.name"}, use_language=True)
    items, refusals = trees.read_all(source, tmp_path / "spilled")
    assert refusals == {}
    assert len(items) == 300
    assert {(item.repo_name, item.language) for item in items.values()} == {("o/r", "Python")}
    assert items["7.py"].content == rows[7]["text"]


def test_ids_of_the_stack_v2_are_fetched_from_the_bucket_that_is_given(tmp_path: Path) -> None:
    blobs = {hashlib.sha1(text.encode()).hexdigest(): text for text in ("x = 'größer'\n", "y = 2\n")}
    (tmp_path / "content").mkdir()
    for blob, text in blobs.items():
        (tmp_path / "content" / blob).write_bytes(gzip.compress(text.encode("latin-1")))
    first, second = blobs
    files = [
        {"blob_id": first, "path": "a.py", "src_encoding": "ISO-8859-1"},
        {"blob_id": f"swh:1:cnt:{second}", "path": "b.py", "src_encoding": "UTF-8"},
        {"blob_id": "0" * 40, "path": "c.py", "src_encoding": "UTF-8"},
        {"blob_id": "no hash", "path": "d.py", "src_encoding": "UTF-8"},
    ]
    path = trees.write_parquet(tmp_path / "ids.parquet", {"repo_name": ["o/r"], "files": [files]})
    items, refusals = trees.read_all(
        ParquetSource(path=str(path), contents=str(tmp_path / "content")), tmp_path / "spilled"
    )
    assert {name: (item.repo_name, item.encoding) for name, item in items.items()} == {
        "a.py": ("o/r", "ISO-8859-1"),
        "b.py": ("o/r", "UTF-8"),
    }
    assert {name: one.reason for name, one in refusals.items()} == {"c.py": "no_content", "d.py": "invalid_value"}
    plain = trees.write_parquet(tmp_path / "plain.parquet", {"blob_id": [first], "path": ["a.py"]})
    _, refusals = trees.read_all(ParquetSource(path=str(plain)), tmp_path / "spilled")
    assert "give contents = 's3://softwareheritage/content'" in refusals["plain.parquet"].detail


def test_archive_members_that_lead_outside_are_refused(tmp_path: Path) -> None:
    path = trees.write_tar(tmp_path / "bad.tar.gz", {"ok.py": b"x = 1\n", "../evil.py": b"y\n", "/etc/evil.py": b"z\n"})
    items, refusals = trees.read_all(ArchiveSource(path=str(path)), tmp_path / "spilled")
    assert sorted(items) == ["ok.py"]
    assert {refusal.reason for refusal in refusals.values()} == {"path_outside_archive"}
    assert len(refusals) == 2
    assert [safe_member(name) for name in ("a/./b", "C:/x", "a\\..\\..\\b", "")] == ["a/b", None, None, None]


def test_truncated_archive_gives_what_is_whole_and_reports_the_rest(tmp_path: Path) -> None:
    members = {f"p/{n}.py": os.urandom(40_000).hex().encode() for n in range(8)}
    path = trees.write_tar(tmp_path / "cut.tar.gz", members)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    items, refusals = trees.read_all(ArchiveSource(path=str(path)), tmp_path / "spilled")
    assert 1 <= len(items) < 8
    assert all(item.content == members[f"p/{name}"] for name, item in items.items())
    assert "damaged_archive" in {refusal.reason for refusal in refusals.values()}


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = trees.write_zip(tmp_path / "bomb.zip", {f"{n}.py": b"0" * (8 << 20) for n in range(10)})
    items, refusals = trees.read_all(ArchiveSource(path=str(path)), tmp_path / "spilled")
    assert items == {}
    assert refusals["bomb.zip"].reason == "archive_bomb"


def test_zip_that_is_no_zip_is_one_refusal(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"hello")
    items, refusals = trees.read_all(ArchiveSource(path=str(tmp_path)), tmp_path / "spilled")
    assert items == {}
    assert refusals["x.whl"].reason == "damaged_archive"


def test_zip_member_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.py", b"x = 11111111\n")
    path.write_bytes(path.read_bytes().replace(b"x = 11111111", b"x = 22222222"))
    _, refusals = trees.read_all(ArchiveSource(path=str(path)), tmp_path / "spilled")
    assert refusals["a.py"].reason == "damaged_archive"


def test_parquet_in_the_stack_v1_names_is_read(tmp_path: Path) -> None:
    path = trees.write_parquet(
        tmp_path / "v1.parquet",
        {
            "content": ["x = 1\n", "y = 2\n", None],
            "max_stars_repo_name": ["o/r"] * 3,
            "max_stars_repo_path": ["a.py", "b.py", "c.py"],
            "max_stars_repo_licenses": [["MIT"], ["GPL-3.0"], []],
            "max_stars_count": [5.0, None, 1.0],
        },
    )
    items, refusals = trees.read_all(ParquetSource(path=str(path)), tmp_path / "spilled")
    assert (items["a.py"].repo_name, items["a.py"].licenses, items["a.py"].stars) == ("o/r", ("MIT",), 5)
    assert items["b.py"].stars is None
    assert refusals["c.py"].reason == "no_content"


def test_parquet_in_the_stack_v2_names_is_read(tmp_path: Path) -> None:
    columns = {
        "content": [b"x = 1\n"],
        "repo_name": ["o/r"],
        "path": ["/a.py"],
        "detected_licenses": [["MIT"]],
        "star_events_count": [7],
        "revision_id": ["abc"],
    }
    items, _ = trees.read_all(
        ParquetSource(path=str(trees.write_parquet(tmp_path / "v2.parquet", columns))), tmp_path / "spilled"
    )
    assert (items["/a.py"].stars, items["/a.py"].commit, items["/a.py"].content) == (7, "abc", b"x = 1\n")


def test_parquet_with_missing_or_retyped_columns_is_reported(tmp_path: Path) -> None:
    trees.write_parquet(tmp_path / "none.parquet", {"path": ["a.py", "b.py"]})
    trees.write_parquet(tmp_path / "retyped.parquet", {"content": [1, 2], "path": [3, 4]})
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    _, refusals = trees.read_all(ParquetSource(path=str(tmp_path / "*.parquet")), tmp_path / "spilled")
    assert refusals["none.parquet"].reason == "no_content_column"
    assert refusals["broken.parquet"].reason == "damaged_parquet"
    assert [r.reason for path, r in refusals.items() if path.startswith("retyped")] == ["not_text", "not_text"]


def test_json_lines_are_cut_into_units_without_losing_or_doubling_a_line(tmp_path: Path) -> None:
    records = [{"text": trees.program(f"f{n}"), "path": f"{n}.py"} for n in range(20)]
    path = trees.write_json_lines(tmp_path / "a.jsonl", records)
    (whole,) = trees.units_of(JsonLinesSource(path=str(path)), tmp_path)
    size = path.stat().st_size
    for step in (1, 97, 1000, size):
        found = []
        for start in range(0, size, step):
            unit = type(whole)(whole.source, whole.location, start, min(size, start + step))  # type: ignore[attr-defined,call-arg]
            found += [item.path for item in unit.read(trees.LIMITS)]
        assert found == [f"{n}.py" for n in range(20)]


def test_json_lines_that_are_invalid_are_refused_one_by_one(tmp_path: Path) -> None:
    lines = [
        {"content": "x = 1\n", "path": "a.py"},
        "{broken",
        [1, 2],
        {"path": "b.py"},
        {"content": 5, "path": "c.py"},
    ]
    path = trees.write_json_lines(tmp_path / "a.jsonl.gz", lines)
    items, refusals = trees.read_all(JsonLinesSource(path=str(path)), tmp_path / "spilled")
    assert sorted(items) == ["a.py"]
    assert sorted(r.reason for r in refusals.values()) == ["invalid_json", "no_content", "not_an_object", "not_text"]


def test_truncated_gzip_of_json_lines_is_reported(tmp_path: Path) -> None:
    raw = gzip.compress(os.urandom(20_000).hex().encode())
    (tmp_path / "a.jsonl.gz").write_bytes(raw[:5000])
    _, refusals = trees.read_all(JsonLinesSource(path=str(tmp_path / "a.jsonl.gz")), tmp_path / "spilled")
    assert "damaged_file" in {refusal.reason for refusal in refusals.values()}


def test_issue_events_become_one_conversation_with_numbered_users(tmp_path: Path) -> None:
    body = "I think @opener is right about the cache, see the log. " * 4
    events = [
        trees.event("o/r", 7, "helper", body, comment=2),
        trees.event("o/r", 7, "codecov[bot]", "Coverage went up", comment=1),
        "{broken",
    ]
    path = trees.write_json_lines(tmp_path / "2020-01-01-0.json.gz", events)
    items, refusals = trees.read_all(GitHubIssuesSource(path=str(path)), tmp_path / "spilled")
    parts = split_parts(str(items["issues/7"].content))
    assert [part.role for part in parts] == ["title", "comment", "comment"]
    assert parts[1].text.startswith("username_0: The opening text")
    assert parts[2].text.startswith("username_1: I think @username_0 is right")
    assert [refusal.reason for refusal in refusals.values()] == ["invalid_json"]


def test_short_and_lonely_issues_are_refused(tmp_path: Path) -> None:
    long = "A single person writes a very long text here. " * 200
    events = [
        trees.event("o/r", 1, "a", "short"),
        trees.event("o/r", 2, "a", long),
        trees.event("o/r", 3, "dependabot[bot]", long),
    ]
    path = trees.write_json_lines(tmp_path / "e.json", events)
    _, refusals = trees.read_all(GitHubIssuesSource(path=str(path)), tmp_path / "spilled")
    assert {path: refusal.reason for path, refusal in refusals.items()} == {
        "issues/1": "short_issue",
        "issues/2": "one_user",
        "issues/3": "bot_issue",
    }


def test_missing_path_is_a_user_error() -> None:
    for source in (FolderSource, GitSource, ArchiveSource, ParquetSource, JsonLinesSource, GitHubIssuesSource):
        with pytest.raises(UserError, match="/no/such/place"):
            source(path="/no/such/place").places()


@pytest.mark.parametrize("repositories", ["whole", "children"])
def test_folder_is_walked_once_for_its_state_and_its_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repositories: str
) -> None:
    monkeypatch.setenv("STARLOOM_CACHE", str(tmp_path / "cache"))
    code = trees.write_files(tmp_path / "code", {f"r{n % 3}/{n}/f{n}.py": f"x = {n}\n" for n in range(30)})
    (code / "r0" / "loop").symlink_to(code)
    source = FolderSource(path=str(code), repositories=repositories)  # type: ignore[arg-type]
    expected = trees.units_of(source, tmp_path)
    walked: list[str] = []
    real = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).startswith(str(code)):
            walked.append(folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    state = source.state()
    assert len(walked) == len(set(walked)) == 34
    assert trees.units_of(source, tmp_path, state) == expected
    assert len(walked) == 34
    # another machine, or a cache that was emptied: it is walked again
    assert trees.units_of(source, tmp_path, "0" * 64) == expected
    assert len(walked) == 68


def test_only_the_newest_walks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLOOM_CACHE", str(tmp_path / "cache"))
    source = FolderSource(path=str(trees.write_files(tmp_path / "code", {"a.py": "x = 1\n"})))
    states = []
    for number in range(walks.KEPT_WALKS + 3):
        (tmp_path / "code" / f"{number}.py").touch()
        states.append(source.state())
    assert len(list((tmp_path / "cache" / "walks").iterdir())) == walks.KEPT_WALKS
    assert walks.recalled(states[0]) is None
    assert len(list(walks.recalled(states[-1]) or ())) == walks.KEPT_WALKS + 4


def test_walk_that_was_damaged_on_disk_is_no_shorter_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(walks, "RUN_BATCH", 10)
    files = {f"{n}.py": f"x = {n}\n" for n in range(50)}
    source = FolderSource(path=str(trees.write_files(tmp_path / "code", files)))
    kept = tmp_path / "cache" / "walks" / source.state()
    for damaged in (kept.read_bytes()[:-40], kept.read_bytes()[:60] + bytes(8) + kept.read_bytes()[68:]):
        state = source.state()
        kept.write_bytes(damaged)
        with pytest.raises(RunError, match="was damaged, and is removed; run again"):
            trees.units_of(source, tmp_path, state)
        assert len(trees.units_of(source, tmp_path, state)) == 50  # it walks again


def test_disk_that_takes_no_walk_costs_nothing_but_a_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARLOOM_CACHE", str(tmp_path / "cache"))
    source = FolderSource(path=str(trees.write_files(tmp_path / "code", {"a.py": "x = 1\n"})))
    state = source.state()
    (tmp_path / "cache" / "walks" / state).unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(PickleFile, "add", full)
        assert source.state() == state
    assert list((tmp_path / "cache" / "walks").iterdir()) == []
    (tmp_path / "cache" / "walks").rmdir()
    (tmp_path / "cache" / "walks").touch()
    assert source.state() == state
