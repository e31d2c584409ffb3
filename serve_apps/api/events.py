"""What became of completions in editors: shown, accepted, dismissed; counted, never kept."""

import re
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

CLIENT_HEADER = "x-starloom-client"  # NAME/VERSION
MOST_NAMES = 64  # of clients and of languages: labels that clients choose are bounded
OTHER = "other"
_NAME = re.compile(r"[A-Za-z0-9.+#_ -]{1,32}")


class ShownCounts:
    """Completions and their characters by what became of them, client, language and key."""

    def __init__(self, registry: CollectorRegistry) -> None:
        by = ("type", "client", "language", "key")
        self._events = Counter("starloom:completion_events", "What became of completions", by, registry=registry)
        self._characters = Counter("starloom:completion_characters", "Characters of them", by, registry=registry)
        self._known: dict[str, set[str]] = {"client": set(), "language": set()}

    def count(self, kind: str, characters: int, client: str, language: str, user: str) -> None:
        """One more event."""
        labels = (kind, self._bounded("client", client), self._bounded("language", language.lower()), user)
        self._events.labels(*labels).inc()
        self._characters.labels(*labels).inc(characters)

    def _bounded(self, label: str, name: str) -> str:
        known = self._known[label]
        if name and (not _NAME.fullmatch(name) or (name not in known and len(known) >= MOST_NAMES)):
            return OTHER
        known.add(name)
        return name


def client_of(headers: Mapping[str, str]) -> str:
    """The name of the editor's plug-in that sent a request; empty where none says."""
    return headers.get(CLIENT_HEADER, "").partition("/")[0].strip()
