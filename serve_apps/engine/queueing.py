"""Requests that wait: bounded, and shared fairly between users."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from serve_apps.engine.request import Overloaded, Request


@dataclass
class WaitingQueue:
    """At most `size` requests. Next is the oldest of the user who has the fewest running."""

    size: int
    _by_user: dict[str, deque[Request]] = field(default_factory=dict)
    _counts: Counter[int] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self._counts.total()

    def of(self, adapter: int) -> int:
        """How many wait for an adapter, or for the model itself (-1)."""
        return self._counts[adapter]  # counted, so that other threads may ask at any time

    def put(self, request: Request) -> None:
        """Take a place at the end; `Overloaded` when there is none."""
        if len(self) >= self.size:
            raise Overloaded(f"{len(self)} requests are waiting; try again in a moment")
        self._by_user.setdefault(request.user, deque()).append(request)
        self._counts[request.adapter] += 1

    def next(self, running: Iterable[str]) -> Request | None:
        """Whose turn it is, left in the queue."""
        counts = Counter(running)
        user = min(self._by_user, key=lambda name: counts[name], default=None)
        return None if user is None else self._by_user[user][0]

    def take(self, request: Request) -> None:
        """Remove a request; its user goes behind the others who have as few running."""
        mine = self._by_user.pop(request.user)
        mine.remove(request)
        self._counts[request.adapter] -= 1
        if mine:
            self._by_user[request.user] = mine

    def given_up(self) -> list[Request]:
        """The cancelled and the late, in the queue still."""
        return [one for mine in self._by_user.values() for one in mine if one.cancelled or one.late]

    def everything(self) -> list[Request]:
        """All that wait."""
        return [one for mine in self._by_user.values() for one in mine]
