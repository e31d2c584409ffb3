"""Artifacts are read without threads of Arrow: one that holds a Python object at exit would abort the process."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from starloom import parquet
from starloom.artifact import ArtifactWriter

# the threads of this process but for the one that Arrow's allocator keeps
READING = """
import os
import sys
from pathlib import Path
from starloom.artifact import ArtifactWriter

def threads():
    names = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    return sum(name != "jemalloc_bg_thd" for name in names)

before = threads()
read = ArtifactWriter(sys.argv[1])
rows = read.read_table("data.parquet").num_rows, read.read_table("data.parquet", ["b"]).num_rows
rows = *rows, sum(table.num_rows for table in read.tables(["data.parquet"]))
print(rows, threads() - before)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = pa.table({"a": list(range(50_000)), "b": [f"text {number}" for number in range(50_000)]})
    ArtifactWriter(str(tmp_path)).write_table("data.parquet", table, row_group_rows=10_000)
    return tmp_path


def test_tables_of_an_artifact_are_read_by_the_thread_that_asks(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READING, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "(50000, 50000, 50000) 0\n"


def test_columns_come_as_they_are_named_and_none_is_left_out_silently(folder: Path) -> None:
    with (folder / "data.parquet").open("rb") as file:
        assert parquet.read_columns(file, ["b", "a"]).column_names == ["b", "a"]
        with pytest.raises(KeyError, match="c"):
            parquet.read_columns(file, ["a", "c"])
