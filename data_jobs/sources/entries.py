"""What every source speaks in: entries that can be read, and refusals with their reason."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """A file that a source offers; `location` is where its bytes are."""

    repo_name: str
    path: str
    location: str
    size: int  # bytes
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    commit: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Refusal:
    """A file that did not come in, and why."""

    repo_name: str
    path: str
    reason: str
    detail: str = ""


@dataclass
class Listing:
    """What a source holds, sorted by (repo_name, path)."""

    entries: list[Entry] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def sort(self) -> "Listing":
        """Put both lists into their order; returns itself."""
        self.entries.sort(key=lambda entry: (entry.repo_name, entry.path))
        self.refusals.sort(key=lambda refusal: (refusal.repo_name, refusal.path, refusal.reason))
        return self
