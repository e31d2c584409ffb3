"""An index beside the models of a replica: look-ups, counted, for routes and completions."""

import time
from collections.abc import Sequence
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

from serve_apps.segments import Holder
from starloom.attribution.answer import Query, answer_of

Wish = Literal["report", "block"]
TAIL: Final = 100  # characters of the prompt that are looked up with a completion: a copy may begin there


class Attributor:
    """Look-ups of one index by whoever holds its segments.

    `ignore` are owners and repositories that are no answer, the team's own.
    """

    def __init__(self, fingerprint: str, holder: Holder, ignore: Sequence[str] = ()) -> None:
        self._fingerprint, self._holder, self._ignore = fingerprint, holder, tuple(ignore)
        self.registry = CollectorRegistry()
        self._requests = Counter("starloom:attribution_requests", "Look-ups", registry=self.registry)
        self._incomplete = Counter(
            "starloom:attribution_incomplete", "Look-ups whose work was ended", registry=self.registry
        )
        self._matches = Counter(
            "starloom:attribution_matches", "Spans that were found", ("kind", "license"), registry=self.registry
        )
        self._seconds = Histogram(
            "starloom:attribution_seconds", "Of a look-up", registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
        )  # fmt: skip

    async def ask(self, query: Query) -> dict[str, Any]:
        """See `Index.ask`."""
        started = time.perf_counter()
        values = {**vars(query), "ignore": (*query.ignore, *self._ignore)}
        found = await self._holder.find(Query(**values))
        answer = answer_of(query, found, self._fingerprint)
        self._seconds.observe(time.perf_counter() - started)
        self._requests.inc()
        self._incomplete.inc(not answer["complete"])
        for match in answer["matches"]:
            self._matches.labels(match["kind"], next(iter(match["licenses"]), "")).inc()
        return answer

    async def look_up(self, names: dict[str, str]) -> dict[str, Any]:
        """See `Owners.ask`; `names` are its arguments."""
        return await self._holder.rows(names)

    async def of_completion(self, prompt: str, text: str) -> dict[str, Any]:
        """What of a completion stands in the corpus, in code points of the completion.

        The end of the prompt is looked up with it; a span that begins there begins at 0.
        """
        tail = prompt[-TAIL:]
        answer = await self.ask(Query(tail + text, offsets="code-points"))
        shift = len(tail)

        def own(span: list[int]) -> list[int]:
            return [max(0, span[0] - shift), span[1] - shift]

        matches = [{**match, "span": own(match["span"])} for match in answer["matches"] if match["span"][1] > shift]
        spans = [own(span) for span in answer["spans"] if span[1] > shift]
        return {**answer, "spans": spans, "matches": matches}
