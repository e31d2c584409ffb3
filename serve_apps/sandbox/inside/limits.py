"""The limits that the kernel keeps on one program."""

from typing import NamedTuple  # no dataclass: what it imports would be copied with every program


class CellLimits(NamedTuple):
    """Megabytes, seconds, counts. Without isolation, `folder` is where the program runs.

    `grouped`: a control group keeps the account. `trusted` is the judge, which runs the benchmark's own tests: a
    process of the sandbox without a cell of its own.
    """

    cpu_seconds: float
    address_megabytes: int | None
    file_megabytes: int
    temporary_megabytes: int
    processes: int
    isolated: bool = True
    folder: str = "/tmp"
    grouped: bool = False
    trusted: bool = False
