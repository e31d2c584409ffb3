"""What replicas count, added up: whichever of them is asked for metrics answers for all.

Every replica tells its counts to one `Totals` as they grow and once more when it leaves; the counts of one that is gone
stay in the sums, which else would fall and be read as a restart.
"""

import asyncio
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serve_apps.api.errors import Problem

TOLD_SECONDS: Final = 2.0  # so often a replica tells its counts
SILENT_SECONDS: Final = 10.0  # who has said nothing for so long has no load any more
SHARE: Final = "_perc"  # gauges so named are shares: their mean is told
CREATED: Final = "_created"  # when a count began
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """A family of Prometheus' as it travels: its samples are a name, labels and a value each."""

    name: str
    kind: str
    text: str
    samples: tuple[tuple[str, Labels, float], ...]


def families(*registries: CollectorRegistry) -> list[Family]:
    """What registries hold now."""
    return [
        Family(metric.name, metric.type, metric.documentation, tuple(_samples(metric)))
        for registry in registries
        for metric in registry.collect()
    ]


def _samples(metric: Metric) -> Iterator[tuple[str, Labels, float]]:
    for sample in metric.samples:
        yield sample.name, tuple(sorted(sample.labels.items())), sample.value


def added(told: Iterable[tuple[Sequence[Family], bool]]) -> list[Family]:
    """Counts of all, and loads of those that are there (the second of each pair)."""
    known: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], list[float]]] = {}
    for replica, there in told:
        for family in replica:
            known.setdefault(family.name, family)
            mine = values.setdefault(family.name, {})
            if there or family.kind != "gauge":
                for name, labels, value in family.samples:
                    mine.setdefault((name, labels), []).append(value)
    return [
        Family(name, one.kind, one.text, tuple((*at, _joined(at[0], found)) for at, found in values[name].items()))
        for name, one in known.items()
    ]


def _joined(name: str, values: Sequence[float]) -> float:
    if name.endswith(CREATED):
        return min(values)
    return sum(values) / (len(values) if name.endswith(SHARE) else 1)


def exposition(told: Sequence[Family]) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Told(told))
    return generate_latest(registry)


class _Told(Collector):
    def __init__(self, told: Sequence[Family]) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        for family in self._told:
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


@dataclass(frozen=True)
class _Word:
    number: int
    at: float
    told: Sequence[Family]


class Ledger:
    """The last word of every replica that there is, and the sums of those that have left."""

    def __init__(self) -> None:
        self._last: dict[str, _Word] = {}
        self._gone: Sequence[Family] = ()
        self._left: set[str] = set()

    async def put(self, replica: str, number: int, told: Sequence[Family], *, leaving: bool = False) -> None:
        """What a replica counts, its word of that number; one that was overtaken by a later one is not heard."""
        if replica in self._left or (replica in self._last and number <= self._last[replica].number):
            return
        if leaving:
            self._last.pop(replica, None)
            self._left.add(replica)
            self._gone = added([(self._gone, False), (told, False)])
        else:
            self._last[replica] = _Word(number, time.monotonic(), told)

    async def total(self, replica: str, number: int, told: Sequence[Family]) -> list[Family]:
        """The sums, after `put`."""
        await self.put(replica, number, told)
        now = time.monotonic()
        there = ((word.told, now - word.at < SILENT_SECONDS) for word in self._last.values())
        return added([(self._gone, False), *there])


# one replica: it is what the others share
Totals = serve.deployment(
    name="Totals",
    num_replicas=1,
    max_ongoing_requests=1024,
    ray_actor_options={"num_cpus": 0},
    logging_config={"enable_access_log": False},
)(Ledger)


class Fleet:
    """A replica among others."""

    def __init__(self, totals: Any, replica: str) -> None:
        """`totals` is a handle of `Totals`."""
        self._totals, self._replica, self._numbers = totals, replica, itertools.count()

    async def total(self, own: Sequence[Family]) -> Sequence[Family]:
        """The sums over all replicas; the others' counts are as old as `TOLD_SECONDS` at most.

        Raises:
            Problem: what adds up is not there at the moment.
        """
        try:
            told: Sequence[Family] = await self._totals.total.remote(self._replica, next(self._numbers), own)
        except (RayError, RayServeException) as error:
            raise Problem(503, "what adds the replicas' counts up is not there at the moment", 2) from error
        return told

    async def report(self, registries: Sequence[CollectorRegistry]) -> None:
        """Tell the counts until this is cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(TOLD_SECONDS)
                await self._put(families(*registries), leaving=False)
        finally:
            await self._put(families(*registries), leaving=True)

    async def _put(self, told: Sequence[Family], *, leaving: bool) -> None:
        try:
            await self._totals.put.remote(self._replica, next(self._numbers), told, leaving=leaving)
        except (RayError, RayServeException) as error:  # the next word has all of this one
            print(f"metrics: not told to the other replicas: {error}", flush=True)
