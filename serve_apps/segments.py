"""Who holds segments of an index: the replica of the model itself, or deployments that hold some each.

An index of a whole Stack is larger than one machine's memory. With ``segments_per_replica`` each deployment opens that
many segments, on whichever node it comes to lie; a look-up asks all of them and joins what they know.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from ray import serve
from ray.exceptions import RayError

from starloom.artifact import Artifact
from starloom.attribution.answer import Hits, Index, Query, joined
from starloom.attribution.owners import Owners, joined_rows
from starloom.errors import RunError
from starloom.kinds import Attribution

THREADS: Final = 2  # look-ups at once; the compiled loops leave the interpreter free
_WARM = "def warm(first, second):\n    return [first, second, first + second, second * first]\n" * 3


class AwayError(RunError):
    """A replica that holds segments is gone; Serve starts it again."""


class Holder(Protocol):
    """Knows what some segments hold."""

    async def find(self, query: Query) -> Hits:
        """See `Index.find`."""

    async def rows(self, names: dict[str, str]) -> dict[str, Any]:
        """See `Owners.ask`."""


class Here:
    """Segments of an index in this process: all, or `first` up to `stop`."""

    def __init__(self, view: Attribution, first: int = 0, stop: int | None = None) -> None:
        self._index = Index.open(view, first, stop)
        self._owners = Owners(view, self._index, with_dropped=first == 0)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="attribution")
        self._index.find(Query(_WARM))  # what is compiled at the first call is compiled before anybody asks

    async def find(self, query: Query) -> Hits:
        """See `Index.find`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._index.find, query)

    async def rows(self, names: dict[str, str]) -> dict[str, Any]:
        """See `Owners.ask`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: self._owners.ask(**names))


class _Segments:
    """Some of an index's segments in a replica of their own."""

    def __init__(self, folder: str, first: int, stop: int) -> None:
        self._here = Here(Attribution(Artifact.open(folder)), first, stop)

    async def find(self, query: Query) -> Hits:
        return await self._here.find(query)

    async def rows(self, names: dict[str, str]) -> dict[str, Any]:
        return await self._here.rows(names)


Segments = serve.deployment(
    ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=64, logging_config={"enable_access_log": False}
)(_Segments)


def spread(folder: str, together: int) -> list[serve.Application]:
    """An index's segments in applications of `together` each."""
    count = len(Attribution(Artifact.open(folder)).segments())
    return [
        Segments.options(name=f"Segments-{number}").bind(folder, first, first + together)
        for number, first in enumerate(range(0, count, together))
    ]


class Elsewhere:
    """Segments in other replicas, by their handles; `AwayError` when one of them does not answer."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self._handles = list(handles)

    async def find(self, query: Query) -> Hits:
        """See `Index.find`."""
        parts: list[Hits] = await self._all("find", query)
        return joined(parts, query.files_per_match)

    async def rows(self, names: dict[str, str]) -> dict[str, Any]:
        """See `Owners.ask`."""
        return joined_rows(await self._all("rows", names))

    async def ready(self) -> None:
        """Wait until all of them have answered once: a handle's first call waits for its replica to be there."""
        await self._all("find", Query(_WARM))

    async def _all(self, method: str, argument: Any) -> list[Any]:
        async def one(handle: Any) -> Any:
            return await getattr(handle, method).remote(argument)

        try:
            return list(await asyncio.gather(*map(one, self._handles)))
        except RayError as error:
            raise AwayError("a part of the index does not answer at the moment; try again") from error
