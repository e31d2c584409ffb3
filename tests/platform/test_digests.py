"""Digests of files as they are written: equal to those of the files, told by tasks, never trusted for another size."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_jobs.shards import map_shards
from starloom import digests, storage
from starloom.artifact import ArtifactWriter


def test_digest_of_what_is_written_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = ArtifactWriter(str(tmp_path))
    output.write_text("a.txt", "größer\n")
    output.write_table("t/a.parquet", pa.table({"x": list(range(10_000))}), row_group_rows=100)
    output.write_tables("b.parquet", pa.schema([("x", pa.int64())]), [pa.table({"x": [1]}), pa.table({"x": [2]})])
    with output.create("a.npy") as file:
        np.save(file, np.arange(1000))
    with output.create("mixed.txt", "w") as file:
        file.write("zwölf\n")
    truth = {name: storage.checksum(output.path(name)) for name, _ in storage.files_below(output.folder)}
    monkeypatch.setattr(storage, "checksum", None)  # nothing is read again
    assert {name: entry.sha256 for name, entry in output.inventory().items()} == truth


def test_file_that_was_written_out_of_order_or_changed_is_read(tmp_path: Path) -> None:
    output = ArtifactWriter(str(tmp_path))
    with output.create("back.bin") as file:
        file.write(b"0000data")
        file.seek(0)
        file.write(b"head")
    output.write_text("later.txt", "one\n")
    (tmp_path / "later.txt").write_text("another\n")
    found = output.inventory()
    assert found["back.bin"].sha256 == storage.checksum(output.path("back.bin"))
    assert found["later.txt"].sha256 == storage.checksum(output.path("later.txt"))


@pytest.mark.usefixtures("ray_cluster")
def test_tasks_tell_the_digests_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = ArtifactWriter(str(tmp_path))

    def work(number: int) -> int:
        output.write_text(f"{number}.txt", f"{number}\n" * 1000)
        return number

    assert map_shards(list(range(8)), work, name="write") == list(range(8))
    truth = {name: storage.checksum(output.path(name)) for name, _ in storage.files_below(output.folder)}
    monkeypatch.setattr(storage, "checksum", None)
    assert {name: entry.sha256 for name, entry in output.inventory().items()} == truth
    assert digests.collected() == {}  # what is in a manifest need not be known any longer
