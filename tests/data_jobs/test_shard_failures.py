"""What goes wrong in a task travels as what it is: an error for people is one line, a bug keeps its trace."""

import errno
import os
from collections.abc import Callable

import pytest

from data_jobs.shards import map_shards
from starloom.errors import RunError, StarloomError, UserError

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


def full(item: int) -> int:
    if item == 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/part-00002.parquet")
    return item


def wrapped(item: int) -> int:
    try:
        return full(item)
    except OSError as error:
        raise ValueError("a library's words") from error


def wrong(item: int) -> int:
    raise UserError("language = 'klingon': is unknown")


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        (full, RunError, "/data/part-00002.parquet: the disk is full"),
        (wrapped, RunError, "/data/part-00002.parquet: the disk is full"),
        (wrong, UserError, "language = 'klingon': is unknown"),
    ],
)
def test_an_error_for_people_is_raised_as_it_is(
    work: Callable[[int], int], kind: type[StarloomError], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind) as raised:
        map_shards([1, 2, 3], work, name="failing")
    assert str(raised.value).startswith(message)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_bug_keeps_its_trace() -> None:
    def broken(item: int) -> int:
        return item // 0

    with pytest.raises(Exception, match="ZeroDivisionError"):
        map_shards([1], broken, name="broken")
