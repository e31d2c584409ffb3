"""Prometheus metrics of a replica, under vLLM's names where the meaning is the same."""

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve_apps.engine.request import Counters, Engine, Event

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BETWEEN = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 120)
COUNTED: dict[str, tuple[str, str]] = {
    "prompt_tokens": ("prompt", "Tokens of prompts"),
    "generation_tokens": ("generated", "Tokens of answers"),
    "prefix_cache_queries": ("prefix_queries", "Tokens looked up in the prefix cache"),
    "prefix_cache_hits": ("prefix_hits", "Tokens found in the prefix cache"),
    "num_preemptions": ("set_aside", "Requests whose blocks went to older ones"),
    "spec_decode_num_draft_tokens": ("drafted", "Tokens drafted by prompt lookup"),
    "spec_decode_num_accepted_tokens": ("accepted", "Drafted tokens that held"),
}
OURS: dict[str, tuple[str, str]] = {
    "cancelled_requests": ("cancelled_requests", "Requests given up by their clients"),
    "late_requests": ("late_requests", "Requests ended by their deadline"),
    "failed_requests": ("failed_requests", "Requests that the engine could not finish"),
    "engine_steps": ("steps", "Forward passes"),
}


class EngineCollector(Collector):
    """What engines count themselves, read when it is asked for."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> list[Metric]:
        """Gauges of the load, counters of the work."""
        gauges = {
            "running": GaugeMetricFamily("vllm:num_requests_running", "Requests in the batch", labels=["model_name"]),
            "waiting": GaugeMetricFamily("vllm:num_requests_waiting", "Requests queued", labels=["model_name"]),
            "cache_use": GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of blocks held", labels=["model_name"]),
        }
        counters = [(f"vllm:{name}", *rest) for name, rest in COUNTED.items()]
        counters += [(f"starloom:{name}", *rest) for name, rest in OURS.items()]
        made = {field: CounterMetricFamily(name, text, labels=["model_name"]) for name, field, text in counters}
        for model, engine in self._engines.items():
            load, work = engine.load, engine.counters
            for field, gauge in gauges.items():
                gauge.add_metric([model], getattr(load, field))
            for field, counter in made.items():
                counter.add_metric([model], getattr(work, field))
        return [*gauges.values(), *made.values()]


class Meters:
    """What only the API sees: latencies and refusals, per model and key."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engines))
        by = ("model_name", "key")
        self.first = self._histogram("vllm:time_to_first_token_seconds", "Until the first token", FIRST)
        self.between = self._histogram("vllm:inter_token_latency_seconds", "From token to token", BETWEEN)
        self.whole = self._histogram("vllm:e2e_request_latency_seconds", "Until the last token", WHOLE)
        self.done = Counter("vllm:request_success", "Finished", (*by, "finished_reason"), registry=self.registry)
        self.refused = Counter("starloom:refused_requests", "Refused", ("key", "status"), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model_name", "key"), buckets=buckets, registry=self.registry)


class AnswerMeters:
    """Latencies of one answer, by the times at which the engine gave its events; `tokens` so far."""

    def __init__(self, meters: Meters, model: str, key: str) -> None:
        self._meters, self._labels, self.tokens = meters, (model, key), 0
        self._first, self._between = meters.first.labels(model, key), meters.between.labels(model, key)
        self._started = self._last = time.perf_counter()

    def observe(self, event: Event, at: float) -> None:
        """One more event; those that end without an answer are not counted as done."""
        if event.scored is not None:
            (self._between if self.tokens else self._first).observe(at - self._last)
            self.tokens, self._last = self.tokens + 1, at
        if event.finish and event.finish not in ("error", "cancelled") and (self.tokens or event.finish != "deadline"):
            self._meters.whole.labels(*self._labels).observe(at - self._started)
            self._meters.done.labels(*self._labels, event.finish).inc()


assert {field for field, _ in (COUNTED | OURS).values()} <= set(Counters.__dataclass_fields__)
