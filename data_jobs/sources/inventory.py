"""What the places of all sources hold, on disk: each is listed in a task, and nobody ever holds the whole list."""

import pickle
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_jobs.licenses.coverage import Coverage
from data_jobs.licenses.texts import Identified
from data_jobs.shards import map_shards
from data_jobs.sources.entries import LicenseFile, Limits, Place, Source, Spill, Unit
from data_jobs.sources.survey import (
    IDENTIFIED,
    Surveyor,
    Told,
    agreed,
    coverage_of,
    dump_batches,
    identify_texts,
    load_batches,
    resolved,
    top_of,
)
from starloom.artifact import ArtifactWriter
from starloom.storage import files_below


@dataclass(frozen=True)
class Entry:
    """A unit, and the number of the place that it is from."""

    place: int
    unit: Unit


@dataclass(frozen=True)
class Inventory:
    """The listing of all sources, below a folder of an unfinished artifact; a listed place stays listed."""

    output: ArtifactWriter
    folder: str

    def take(self, sources: Sequence[Source], states: Sequence[Any], limits: Limits) -> Iterator[Entry]:
        """List every place in a task of its own and identify the licence texts; the units follow in their order.

        Raises:
            UserError: a source does not exist.
            StorageError: the machine or the network did not give something.
        """
        places = [source.places(state) for source, state in zip(sources, states, strict=True)]
        every = [place for several in places for place in several]
        texts = map_shards(list(enumerate(every)), lambda one: self._list(*one, limits), name="list")
        self._identify(texts)
        self._name_tops(len(every), sources)
        number = 0
        for source, several in zip(sources, places, strict=True):
            mine = range(number, number + len(several))
            for place in mine:
                yield from (Entry(place, unit) for unit in self._units(place))
            # of no place: what they need of one is told by name
            yield from (Entry(-1, unit) for unit in source.gathered([self._spill(place) for place in mine]))
            number = mine.stop

    def coverage(self, places: Collection[int], scopes: Collection[str], *, by_name: bool) -> Coverage:
        """The licences that cover what units of these places and scopes hold."""
        if not scopes and not by_name:
            return Coverage()
        identified = self._load(IDENTIFIED)
        told = (one for place in sorted(places) for one in self._told(place, identified))
        return coverage_of(told, scopes, self._load("names") if by_name else {})

    def evidence(self) -> Iterator[Told]:
        """What files say about licences, place by place."""
        identified = self._load(IDENTIFIED)
        for name, _ in files_below(self.output.path(f"{self.folder}/told")):
            yield from self._told(int(name), identified)

    def _list(self, number: int, place: Place, limits: Limits) -> dict[str, str]:
        """List one place; the keys of its licence texts and the files that they are in."""
        units, keys = f"{self.folder}/units/{number:06d}", f"{self.folder}/keys/{number:06d}"
        if not self.output.exists(keys):
            surveyor = Surveyor(self.output, f"{self.folder}/texts/{number:06d}")
            told: list[Told] = []

            def listed() -> Iterator[Unit]:
                for found in place.listing(self._spill(number), limits):
                    if isinstance(found, LicenseFile):
                        said = surveyor.take(found)
                        told.extend([said] if said else [])
                    else:
                        yield found

            with self.output.create(units) as file:
                dump_batches(file, listed())
            surveyor.close()
            with self.output.create(f"{self.folder}/told/{number:06d}") as file:
                dump_batches(file, told)
            with self.output.create(keys) as file:
                pickle.dump(surveyor.keys, file)
        return dict(self._load(f"keys/{number:06d}"))

    def _identify(self, texts: Sequence[dict[str, str]]) -> None:
        if self.output.exists(f"{self.folder}/{IDENTIFIED}"):
            return
        where: dict[str, str] = {}
        for keys in texts:
            for key, name in keys.items():
                where.setdefault(key, name)
        wanted: dict[str, list[str]] = {}
        for key, name in where.items():
            wanted.setdefault(name, []).append(key)
        tasks = [(name, keys[n : n + 2]) for name, keys in sorted(wanted.items()) for n in range(0, len(keys), 2)]
        found: dict[str, Identified] = {}
        for part in map_shards(tasks, lambda task: identify_texts(*task, self.output), name="licences"):
            found.update(part)
        self._dump(IDENTIFIED, found)

    def _name_tops(self, places: int, sources: Sequence[Source]) -> None:
        """The licences of whole repositories by name, for the records of sources that know nothing but the name."""
        named = any(getattr(source, "kind", "") == "github-issues" for source in sources)
        identified = self._load(IDENTIFIED) if named else {}
        tops = (top for place in range(places if named else 0) for top in top_of(self._told(place, identified)))
        self._dump("names", agreed(tops))

    def _units(self, place: int) -> Iterator[Unit]:
        with self.output.open_file(f"{self.folder}/units/{place:06d}") as file:
            yield from load_batches(file)

    def _told(self, place: int, identified: dict[str, Identified]) -> Iterator[Told]:
        if place < 0:
            return
        with self.output.open_file(f"{self.folder}/told/{place:06d}") as file:
            found = (resolved(one, identified) for one in load_batches(file))
            yield from (one for one in found if one is not None)

    def _spill(self, number: int) -> Spill:
        return Spill(self.output, f"{self.folder}/spilled/{number:06d}")

    def _load(self, name: str) -> Any:
        with self.output.open_file(f"{self.folder}/{name}") as file:
            return pickle.load(file)

    def _dump(self, name: str, value: Any) -> None:
        with self.output.create(f"{self.folder}/{name}") as file:
            pickle.dump(value, file)
