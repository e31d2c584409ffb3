"""How many requests each user sends: counted in this process, or in one for all replicas."""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray import serve


class Limiter(Protocol):
    """Counts requests."""

    async def seconds_to_wait(self, user: str) -> float:
        """Zero, and one more is counted; or how long until one may come."""


@dataclass
class Bucket:
    """A token bucket: `rate` per second, `size` at once."""

    rate: float
    size: float
    _level: float = field(init=False)
    _at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._level = self.size

    def seconds_to_wait(self) -> float:
        """Zero, and one is taken; or how long until there is one."""
        now = time.monotonic()
        self._level, self._at = min(self.size, self._level + (now - self._at) * self.rate), now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self.rate


@dataclass
class LocalLimiter:
    """Counts in this process; None per minute is any number."""

    per_minute: int | None
    _buckets: dict[str, Bucket] = field(default_factory=dict)

    async def seconds_to_wait(self, user: str) -> float:
        """Zero, and one more is counted; or how long until one may come."""
        if self.per_minute is None:
            return 0.0
        return self._buckets.setdefault(user, Bucket(self.per_minute / 60, self.per_minute)).seconds_to_wait()


@dataclass
class SharedLimiter:
    """Counts where all replicas do."""

    counter: Any  # a handle of `Rates`

    async def seconds_to_wait(self, user: str) -> float:
        """Zero, and one more is counted; or how long until one may come."""
        return float(await self.counter.seconds_to_wait.remote(user))


# one replica: it is what the others share
Rates = serve.deployment(
    name="Rates",
    num_replicas=1,
    max_ongoing_requests=1024,
    ray_actor_options={"num_cpus": 0},
    logging_config={"enable_access_log": False},
)(LocalLimiter)
