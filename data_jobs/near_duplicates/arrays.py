"""Numbers between stages: ``.npy`` files of an unfinished artifact, whole or not there, readable row by row."""

from collections.abc import Sequence

import numpy as np

from starloom.artifact import Artifact, ArtifactWriter


def save_array(array: np.ndarray, name: str, output: ArtifactWriter) -> None:
    """Write an array of any shape and type as ``.npy``, whole or not at all (float64 [n] stays float64 [n])."""
    with output.create(name) as file:
        np.save(file, array)


def load_array(name: str, output: ArtifactWriter) -> np.ndarray:
    """Read what `save_array` wrote, of the same type and [shape]."""
    with output.open_file(name) as file:
        loaded: np.ndarray = np.load(file)
    return loaded


def load_rows(name: str, rows: Sequence[int], home: Artifact | ArtifactWriter) -> list[np.ndarray]:
    """Some rows of a [rows, width] array that `save_array` wrote, each [width], without reading the others."""
    with home.open_file(name) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start, width = file.tell(), shape[1] * dtype.itemsize
        found = []
        for row in rows:
            file.seek(start + row * width)
            found.append(np.frombuffer(file.read(width), dtype=dtype))
    return found


def load_slice(name: str, start: int, stop: int, output: ArtifactWriter) -> np.ndarray:
    """Elements [start, stop) of an array that `save_array` wrote, of its type and [shape], and none of the others."""
    with output.open_file(name) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        width = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        stop = min(stop, shape[0])
        file.seek(file.tell() + start * width)
        content = file.read(max(0, stop - start) * width)
    return np.frombuffer(content, dtype=dtype).reshape(-1, *shape[1:])
