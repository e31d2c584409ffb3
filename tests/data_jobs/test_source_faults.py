"""Faults of storage are no faults of data: they are tried again, and then they end the step; nothing is lost."""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_jobs.admission.rules import Admission
from data_jobs.collect import read_unit
from data_jobs.languages import load_languages
from data_jobs.sources.archive import ArchiveSource
from data_jobs.sources.entries import Limits, Refusal, Source
from data_jobs.sources.folder import FolderSource
from data_jobs.sources.git import GitSource, told
from data_jobs.sources.history import GitHistorySource
from data_jobs.sources.issues import GitHubIssuesSource
from data_jobs.sources.tables import JsonLinesSource, ParquetSource
from starloom import patience
from starloom.errors import StorageError, UserError
from tests.data_jobs import source_trees as trees

ADMISSION = Admission(languages=load_languages(), limits=Limits())


class Stuttering(LocalFileSystem):  # type: ignore[misc]
    """Local files behind a network: every so many reads one fails, as an object store says SlowDown."""

    protocol = "stutter"
    every = 0  # 0: none fails
    reads = 0
    error: Callable[[], Exception] = staticmethod(lambda: OSError(errno.EBUSY, "SlowDown: reduce your request rate"))

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(str(path).removeprefix("stutter://")))

    def unstrip_protocol(self, name: str) -> str:
        return f"stutter://{self._strip_protocol(name)}"

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        return _Slow(open(path, mode))


class _Slow:
    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, *size: int) -> bytes:
        Stuttering.reads += 1
        if Stuttering.every and Stuttering.reads % Stuttering.every == 0:
            raise Stuttering.error()
        return bytes(self._file.read(*size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


fsspec.register_implementation("stutter", Stuttering, clobber=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RETRY_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(Stuttering, "every", 0)
    monkeypatch.setattr(Stuttering, "reads", 0)


def outcomes(source: Source, folder: Path) -> tuple[set[str], list[Refusal]]:
    """The paths of the rows, and the refusals."""
    found = [one for unit in trees.units_of(source, folder) for one in read_unit(unit, ADMISSION)]
    refusals = [one for one in found if isinstance(one, Refusal)]
    return {one["path"] for one in found if isinstance(one, dict)}, refusals


def remote(path: Path) -> str:
    return f"stutter://{path}"


def everything(tmp_path: Path) -> list[tuple[Source, set[str]]]:
    """A source of each kind that reads over the network, and the paths of its rows."""
    generator = random.Random(0)
    names = [f"{n}.py" for n in range(60)]
    # incompressible, so that the files are longer than one read
    texts = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz_0123456789\n", k=60_000)) for _ in names]
    columns = {"content": texts, "path": names, "repo_name": ["o/r"] * len(names)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=10, compression="none")
    lines = [{"content": text, "path": name} for text, name in zip(texts, names, strict=True)]
    trees.write_json_lines(tmp_path / "a.jsonl", lines)
    trees.write_json_lines(tmp_path / "b.jsonl.gz", lines)
    members = {name: text.encode() for name, text in zip(names, texts, strict=True)}
    trees.write_tar(tmp_path / "a.tar.gz", members)
    trees.write_zip(tmp_path / "a.ZIP", members)
    body = "A long report of what went wrong and how. " * 40
    events = [trees.event("o/r", n, "u", body) for n in range(20)]
    trees.write_json_lines(tmp_path / "events.json.gz", events)
    files = set(names)
    return [
        (ParquetSource(path=remote(tmp_path / "a.parquet")), files),
        (JsonLinesSource(path=remote(tmp_path / "a.jsonl")), files),
        (JsonLinesSource(path=remote(tmp_path / "b.jsonl.gz")), files),
        (ArchiveSource(path=remote(tmp_path / "a.tar.gz")), files),
        (ArchiveSource(path=remote(tmp_path / "a.ZIP")), files),
        (GitHubIssuesSource(path=remote(tmp_path / "events.json.gz")), {f"issues/{n}" for n in range(20)}),
    ]


def test_storage_that_stutters_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source, paths in everything(tmp_path):
        monkeypatch.setattr(Stuttering, "every", 3)
        assert outcomes(source, tmp_path / "spilled") == (paths, []), source
        assert Stuttering.reads >= 2, source


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        lambda: OSError(errno.EBUSY, "SlowDown"),
        lambda: OSError("connection reset, without a number"),
        lambda: FileNotFoundError("no such mount"),
        lambda: PermissionError("token expired"),
        lambda: TimeoutError(),
        lambda: RuntimeError("a client library's own"),
        lambda: EOFError("short read"),
        lambda: ValueError("I/O operation on closed file"),
    ],
)
def test_storage_that_fails_for_good_ends_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    for source, _ in everything(tmp_path):
        monkeypatch.setattr(Stuttering, "error", staticmethod(error))
        monkeypatch.setattr(Stuttering, "every", 0)
        places = source.places()
        monkeypatch.setattr(Stuttering, "every", 1)
        assert places
        with pytest.raises(StorageError, match="cannot be read, 4 tries"):
            outcomes(source, tmp_path / "spilled")


def test_file_that_ends_before_its_size_is_a_fault_of_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trees.write_json_lines(tmp_path / "a.jsonl", [{"content": "x = 1\n", "path": "a.py"}] * 100)
    (unit,) = trees.units_of(JsonLinesSource(path=remote(path)), tmp_path)
    monkeypatch.setattr(_Slow, "read", lambda self, *size: b"")
    with pytest.raises(StorageError, match="ends after 0 of"):
        list(read_unit(unit, ADMISSION))


def test_archive_that_changed_behind_its_url_is_read_anew(tmp_path: Path) -> None:
    source = ArchiveSource(path=remote(trees.write_zip(tmp_path / "a.zip", {"a.py": b"x = 1\n"})))
    before = source.state()
    assert outcomes(source, tmp_path / "spilled")[0] == {"a.py"}
    trees.write_zip(tmp_path / "a.zip", {"b.py": b"x = 22\n"})
    assert source.state() != before
    assert outcomes(source, tmp_path / "spilled")[0] == {"b.py"}


def test_repository_whose_disk_has_gone_is_no_refusal(tmp_path: Path) -> None:
    folder = trees.commit_files(tmp_path / "tool.git", [("one", {"a.py": "x = 1\n"})])
    for source in (GitSource(path=str(folder)), GitHistorySource(path=str(folder))):
        places, units = source.places(), trees.units_of(source, tmp_path)
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match="no file is left out"):
            list(read_unit(units[0], ADMISSION))
        with pytest.raises(StorageError, match="no file is left out"):
            list(places[0].listing(trees.spill(tmp_path), Limits()))
        (tmp_path / "elsewhere").rename(folder)


def test_fault_of_the_disk_that_libgit2_tells_in_words_is_no_corrupt_object(tmp_path: Path) -> None:
    import pygit2

    assert "inflate" in told(pygit2.GitError("failed to inflate zlib stream"), str(tmp_path))
    for code in (errno.EIO, errno.EMFILE, errno.ENOMEM):
        with pytest.raises(StorageError, match="no file is left out"):
            told(pygit2.GitError(f"could not read object: {os.strerror(code)}"), str(tmp_path))


def test_memory_that_runs_out_in_arrow_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trees.write_parquet(tmp_path / "a.parquet", {"content": ["x = 1\n"], "path": ["a.py"]})
    (unit,) = trees.units_of(ParquetSource(path=str(path)), tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pq, "ParquetFile", full)
    for work in (lambda: list(read_unit(unit, ADMISSION)), lambda: trees.units_of(unit.source, tmp_path)):  # type: ignore[attr-defined]
        with pytest.raises(MemoryError):
            work()


def test_one_unusable_repository_among_many_is_one_refusal(tmp_path: Path) -> None:
    import pygit2

    for name in ("good", "headless"):
        trees.commit_files(tmp_path / f"{name}.git", [("Say what it does in full", {"a.py": "x = 1\n"})])
    (tmp_path / "headless.git" / "HEAD").write_text("ref: refs/heads/missing\n")
    pygit2.init_repository(str(tmp_path / "empty.git"), bare=True)
    pygit2.init_repository(str(tmp_path / "sha256.git"), bare=True)
    config = tmp_path / "sha256.git" / "config"
    config.write_text(config.read_text().replace("repositoryformatversion = 0", "repositoryformatversion = 1"))
    with config.open("a") as file:
        file.write("[extensions]\n\tobjectformat = sha256\n")
    (tmp_path / "plain.git").mkdir()
    for source in (GitSource(path=str(tmp_path / "*.git")), GitHistorySource(path=str(tmp_path / "*.git"))):
        assert len(source.state()) == 5
        _, refusals = outcomes(source, tmp_path)
        unusable = [one.repo_name.rsplit("/", 1)[-1] for one in refusals if one.reason == "unusable_repository"]
        assert unusable == ["empty", "headless", "plain", "sha256"]
    assert outcomes(GitSource(path=str(tmp_path / "*.git")), tmp_path)[0] == {"a.py"}


def test_commit_in_an_unknown_encoding_is_one_refusal(tmp_path: Path) -> None:
    import pygit2

    folder = trees.commit_files(tmp_path / "tool.git", [("Add a function that adds", {"a.py": "x = 1\n"})])
    repository = pygit2.Repository(str(folder))
    head = repository[repository.head.target]
    raw = head.read_raw().replace(b"\n\n", b"\nencoding windows-1252x\n\n", 1)
    oid = repository.write(pygit2.enums.ObjectType.COMMIT, raw)
    repository.references.create("refs/heads/main", oid, force=True)
    _, refusals = outcomes(GitHistorySource(path=str(folder)), tmp_path)
    assert [(one.reason, one.detail) for one in refusals] == [("unknown_encoding", "the message is in windows-1252x")]


def test_folders_a_thousand_deep_and_closed_ones_are_walked(tmp_path: Path) -> None:
    code = trees.write_files(tmp_path / "code", {"a.py": "x = 1\n", "gone/b.py": "y = 1\n"})
    deep = str(code)
    for _ in range(1000):
        deep += "/d"
        os.mkdir(deep)
    Path(deep, "z.py").write_text("z = 1\n")
    paths, refusals = outcomes(FolderSource(path=str(code)), tmp_path)
    subprocess.run(["rm", "-rf", str(code / "d")], check=True)  # Python's own cannot go that deep
    assert paths == {"a.py", "gone/b.py", f"{'d/' * 1000}z.py"}
    assert refusals == []


def test_folder_that_vanishes_during_the_walk_is_one_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = trees.write_files(tmp_path / "code", {"a.py": "x = 1\n", "b/b.py": "y = 1\n", "c.py": "z = 1\n"})
    real = os.scandir

    def scandir(folder: Any) -> Any:
        if str(folder).rstrip("/").endswith("/b"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    paths, refusals = outcomes(FolderSource(path=str(code)), tmp_path)
    assert paths == {"a.py", "c.py"}
    assert [(one.path, one.reason) for one in refusals] == [("b", "unreadable")]

    def broken(folder: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error", str(folder))

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        outcomes(FolderSource(path=str(code)), tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
row_values = st.dictionaries(
    st.sampled_from("content text path repo_name kind stars language licenses files blob_id".split()),  # noqa: SIM905
    json_values | st.text(st.characters(codec=None), max_size=30),
    max_size=6,
)
fuzzed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def total(source: Source, folder: Path) -> int:
    paths = [one for unit in trees.units_of(source, folder) for one in read_unit(unit, ADMISSION)]
    for one in paths:
        pa.array([str(one)])  # what is told of it can be written down
    return len(paths)


@pytest.mark.slow
@fuzzed
@given(st.lists(row_values, max_size=6))
def test_any_json_gives_a_row_or_a_refusal_each(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = trees.write_json_lines(tmp_path / "a.jsonl", rows)
    several = sum(len(files) if isinstance(files := row.get("files"), list) and _no_text(row) else 1 for row in rows)
    if rows:
        assert total(JsonLinesSource(path=str(path), use_language=True), tmp_path) == several
        events = trees.write_json_lines(tmp_path / "e.json", rows)
        total(GitHubIssuesSource(path=str(events)), tmp_path)


def _no_text(row: dict[str, Any]) -> bool:
    return next((row[name] for name in ("content", "text") if name in row), None) is None


@pytest.mark.slow
@fuzzed
@given(
    st.binary(max_size=400),
    st.sampled_from([".jsonl", ".json.gz", ".parquet", ".zip", ".tar", ".tar.zst", ".py", ".ipynb"]),
)
def test_any_bytes_give_rows_or_refusals(tmp_path: Path, content: bytes, suffix: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    path = folder / f"a{suffix}"
    for magic in (b"", b"PAR1", b"PK\x03\x04", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"[", b"{"):
        path.write_bytes(magic + content)
        for source in (
            FolderSource(path=str(folder)),
            ArchiveSource(path=str(path)),
            ParquetSource(path=str(path)),
            JsonLinesSource(path=str(path)),
            GitHubIssuesSource(path=str(path)),
        ):
            total(source, tmp_path / "spilled")
    path.unlink()


@pytest.mark.slow
@fuzzed
@given(st.binary(min_size=1, max_size=60), st.integers(0, 4000), st.integers(0, 2))
def test_damage_anywhere_in_a_file_is_no_crash(tmp_path: Path, junk: bytes, at: int, which: int) -> None:
    members = {f"{n}.py": trees.program(f"f{n}").encode() for n in range(6)}
    rows = {"content": [one.decode() for one in members.values()], "path": list(members)}
    makers: tuple[tuple[Callable[[], Path], type[Any]], ...] = (
        (lambda: trees.write_zip(tmp_path / "a.zip", members), ArchiveSource),
        (lambda: trees.write_tar(tmp_path / "a.tar.gz", members), ArchiveSource),
        (lambda: trees.write_parquet(tmp_path / "a.parquet", rows), ParquetSource),
    )
    make, source = makers[which]
    path = make()
    content = path.read_bytes()
    at = at % len(content)
    path.write_bytes(content[:at] + junk + content[at + len(junk) :])
    assert total(source(path=str(path)), tmp_path / "spilled") >= 1


@pytest.mark.slow
@fuzzed
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12),
            st.binary(max_size=50),
        ),
        max_size=8,
    )
)
def test_any_tree_gives_one_outcome_a_file(tmp_path: Path, files: list[tuple[str, bytes]]) -> None:
    shutil.rmtree(tmp_path / "tree", ignore_errors=True)
    (tmp_path / "tree").mkdir()
    written = set()
    for name, content in files:
        if name not in (".", "..") and len(name.encode()) < 200:
            (tmp_path / "tree" / name).write_bytes(content)
            written.add(name)
    assert total(FolderSource(path=str(tmp_path / "tree")), tmp_path / "spilled") == len(written)


def test_exact_repository_that_is_none_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a git repository"):
        GitSource(path=str(tmp_path)).state()
