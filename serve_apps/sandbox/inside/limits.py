"""The limits that the kernel keeps on one program."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CellLimits:
    """Megabytes, seconds, counts. Without isolation, `folder` is where the program runs."""

    cpu_seconds: float
    address_megabytes: int | None
    file_megabytes: int
    temporary_megabytes: int
    processes: int
    isolated: bool = True
    folder: str = "/tmp"
