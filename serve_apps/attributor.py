"""An index beside the models of a replica: look-ups in threads of their own, counted, for routes and completions."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from starloom.attribution.answer import Index, Query
from starloom.attribution.owners import Owners
from starloom.kinds import Attribution

Wish = Literal["report", "block"]
TAIL: Final = 100  # characters of the prompt that are looked up with a completion: a copy may begin there
_WARM = "def warm(first, second):\n    return [first, second, first + second, second * first]\n" * 3


class Attributor:
    """Look-ups of one index; `ignore` are owners and repositories that are no answer, the team's own."""

    def __init__(self, view: Attribution, ignore: Sequence[str] = ()) -> None:
        self.index = Index.open(view)
        self.owners = Owners(view, self.index)
        self._ignore = tuple(ignore)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="attribution")
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
        self.index.ask(Query(_WARM))  # what is compiled at the first call is compiled before anybody asks

    async def ask(self, query: Query) -> dict[str, Any]:
        """See `Index.ask`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._ask, query)

    def _ask(self, query: Query) -> dict[str, Any]:
        started = time.perf_counter()
        values = {**vars(query), "ignore": (*query.ignore, *self._ignore)}
        answer = self.index.ask(Query(**values))
        self._seconds.observe(time.perf_counter() - started)
        self._requests.inc()
        self._incomplete.inc(not answer["complete"])
        for match in answer["matches"]:
            self._matches.labels(match["kind"], next(iter(match["licenses"]), "")).inc()
        return answer

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

    def metrics(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
