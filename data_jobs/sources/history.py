"""Git history as commits: the file before, the message, the file after.

Rules of StarCoder's commit data (bigcode-dataset, as the field notes tell them): one file per commit, an old side below
100,000 characters, no boilerplate subjects, a tenth of the tiny and the huge changes, half of the very short subjects
and half of the data formats; a fifth with the whole file, the rest with a window of 0 to 31 lines on each side.
"""

import difflib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from data_jobs.sources.entries import Independent, Item, Limits, Listed, Refusal, Spill, refused
from data_jobs.sources.git import (
    Blob,
    GitBlobs,
    UnusableError,
    blobs_of,
    git_errors,
    git_state,
    head_commit,
    license_blob,
    open_repository,
    repository_name,
    repository_scope,
    told,
)
from starloom.config import Config
from starloom.draws import draw
from starloom.errors import one_line
from starloom.records import Commit, join_commit
from starloom.storage import matching_files

COMMITS_PER_UNIT = 64
BYTES_PER_COMMIT = 8 << 10  # a guess that shards are cut by: what a commit holds is known once it is read
_DATA_FORMATS = frozenset({"json", "yml", "yaml", "xml", "html"})
_BOILERPLATE = re.compile(
    r"(?:(?:update|create|delete|add|edit|rename|initial)\s+(?:readme(?:\.\w+)?|\.gitignore|license|changelog(?:\.\w+)?)"
    r"|(?:initial|first|auto|wip|test|tests|dummy|empty|temp)(?:\s+commit)?|auto[- ]?commit.*|commit|update|updates"
    r"|changes|fix|merge\b.*|revert\b.*|bump(?:ed)?\s+version.*|version\s+bump.*|bump\s+\S+\s+from\s+\S+\s+to.*"
    r"|v?\d+(?:\.\d+)+(?:[-.\w]*)|release\s+v?\d\S*|upload(?:ed)?\s+files?.*|add\s+files\s+via\s+upload|\.+)\s*\.?",
    re.IGNORECASE,
)


class GitHistorySource(Config, Independent):
    """The commits that lead to a ref, of one repository or of those that a glob pattern names."""

    kind: Literal["git-history"] = "git-history"
    path: str
    ref: str = "HEAD"
    repo_name: str | None = None
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    seed: int = 0
    old_characters: int = Field(100_000, gt=0)
    small_lines: int = Field(2, ge=0)
    large_lines: int = Field(200, gt=0)
    extreme_share: float = Field(0.1, ge=0, le=1)  # of the changes that small or that large
    short_subject_share: float = Field(0.5, ge=0, le=1)  # of the subjects below five words
    data_format_share: float = Field(0.5, ge=0, le=1)
    whole_file_share: float = Field(0.2, ge=0, le=1)
    window_lines: int = Field(31, ge=0)

    def places(self, state: Any = None) -> list["HistoryPlace"]:
        """The repositories."""
        return [
            HistoryPlace(self, folder) for folder in matching_files(self.path, setting="sources", what="repository")
        ]

    def state(self) -> Any:
        """The commit of each repository."""
        return git_state(self.path, self.ref)


@dataclass(frozen=True)
class HistoryPlace:
    """One repository."""

    source: GitHistorySource
    folder: str

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """Units of 64 commits each, oldest first; and the files of the ref that tell the licence of them all."""
        import pygit2

        source, folder = self.source, self.folder
        repo_name = source.repo_name or repository_name(folder)
        scope = repository_scope(folder)
        try:
            repository = open_repository(folder)
            head = head_commit(repository, folder, source.ref)
        except UnusableError as error:
            yield refused(repo_name, "history", "unusable_repository", str(error))
            return
        for found in () if source.licenses else blobs_of(repository, folder, repo_name, head):
            if isinstance(found, Blob):  # what is damaged is told by those who want the files
                yield from license_blob(GitBlobs(folder, repo_name, str(head.id), (found,), (), None, scope))
        order = pygit2.enums.SortMode.TOPOLOGICAL | pygit2.enums.SortMode.REVERSE
        commits: list[str] = []
        try:
            for commit in repository.walk(head.id, order):
                commits.append(str(commit.id))
                if len(commits) == COMMITS_PER_UNIT:
                    yield Commits(source, folder, repo_name, tuple(commits), scope)
                    commits = []
        except git_errors() as error:
            yield refused(repo_name, "history", "corrupt_git_object", told(error, folder))
        if commits:
            yield Commits(source, folder, repo_name, tuple(commits), scope)


@dataclass(frozen=True)
class Commits:
    """Neighbouring commits of one repository."""

    source: GitHistorySource
    folder: str
    repo_name: str
    commits: tuple[str, ...]
    scope: str

    @property
    def size(self) -> int:
        """A guess in bytes."""
        return len(self.commits) * BYTES_PER_COMMIT

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """One item or refusal per commit."""
        repository = open_repository(self.folder)
        for oid in self.commits:
            try:
                yield self._read_commit(repository, oid, limits.file)
            except git_errors() as error:
                yield Refusal(self.repo_name, f"commit {oid}", "corrupt_git_object", told(error, self.folder))

    def _read_commit(self, repository: Any, oid: str, limit: int) -> Item | Refusal:
        commit = repository[oid]

        def refuse(reason: str, detail: str = "") -> Refusal:
            return Refusal(self.repo_name, f"commit {oid}", reason, detail)

        if len(commit.parents) > 1:
            return refuse("merge_commit")
        message = _message(commit)
        if message is None:
            return refuse("unknown_encoding", f"the message is in {one_line(commit.message_encoding or 'bytes', 60)}")
        tree = commit.tree
        if commit.parents:
            deltas = list(commit.parents[0].tree.diff_to_tree(tree).deltas)
        else:
            deltas = list(tree.diff_to_tree(swap=True).deltas)
        if len(deltas) != 1:
            return refuse("several_files", f"{len(deltas)} files")
        delta = deltas[0]
        path = delta.new_file.raw_path
        sides = [_side(repository, file, limit) for file in (delta.old_file, delta.new_file)]
        if sides[0] is None or sides[1] is None:
            return refuse("not_text")
        change = Change(oid, message, path.decode("utf-8", "backslashreplace"), sides[0], sides[1])
        reason = refusal_of(change, self.source)
        if reason:
            return refuse(reason)
        return Item(
            self.repo_name,
            f"{change.path}@{oid[:12]}",
            join_commit(windowed(change, self.source)),
            self.source.licenses,
            self.source.stars,
            oid,
            "git-history",
            kind="commit",
            scope=self.scope,
        )


def _message(commit: Any) -> str | None:
    """The message in the encoding that the commit names; None where that is unknown, or not what the message is in."""
    raw: bytes = commit.raw_message
    try:
        return raw.decode(commit.message_encoding or "utf-8")
    except (LookupError, UnicodeDecodeError):
        return None


@dataclass(frozen=True)
class Change:
    """A commit of one file."""

    oid: str
    message: str
    path: str
    before: str
    after: str


def refusal_of(change: Change, limits: GitHistorySource) -> str | None:
    """Why a commit is not kept, or None; samples are drawn from (seed, commit)."""
    subject = change.message.strip().split("\n", 1)[0]
    words = subject.split()
    if not change.after.strip():
        return "empty_after"
    if len(change.before) >= limits.old_characters:
        return "old_file_too_large"
    if not words or _BOILERPLATE.fullmatch(subject.strip()):
        return "boilerplate_subject"
    if sum(map(len, words)) / len(words) > 20:
        return "long_words_in_subject"
    if len(words) < 5 and draw(limits.seed, change.oid, "subject") >= limits.short_subject_share:
        return "short_subject"
    extension = posixpath.splitext(change.path)[1].lstrip(".").lower()
    if extension in _DATA_FORMATS and draw(limits.seed, change.oid, "format") >= limits.data_format_share:
        return "data_format"
    lines = changed_lines(change)
    extreme = not limits.small_lines < lines < limits.large_lines
    if extreme and draw(limits.seed, change.oid, "extreme") >= limits.extreme_share:
        return "change_too_small" if lines <= limits.small_lines else "change_too_large"
    return None


def changed_lines(change: Change) -> int:
    """Lines added and removed."""
    return sum((b - a) + (d - c) for tag, a, b, c, d in _opcodes(change) if tag != "equal")


def windowed(change: Change, limits: GitHistorySource) -> Commit:
    """Before, message and after: whole files, or the lines around the change with a margin drawn for each side."""
    before, after = change.before, change.after
    if draw(limits.seed, change.oid, "whole") >= limits.whole_file_share:
        above = int(draw(limits.seed, change.oid, "above") * (limits.window_lines + 1))
        below = int(draw(limits.seed, change.oid, "below") * (limits.window_lines + 1))
        before, after = _window(change, above, below)
    return Commit(before, change.message.strip(), after)


def _window(change: Change, above: int, below: int) -> tuple[str, str]:
    changed = [code for code in _opcodes(change) if code[0] != "equal"]
    if not changed:
        return change.before, change.after
    old, new = change.before.splitlines(keepends=True), change.after.splitlines(keepends=True)
    first, last = changed[0], changed[-1]
    return (
        "".join(old[max(0, first[1] - above) : last[2] + below]),
        "".join(new[max(0, first[3] - above) : last[4] + below]),
    )


def _opcodes(change: Change) -> list[tuple[str, int, int, int, int]]:
    """Equal head and tail are cut off first: what is between is short for most commits, and difflib is quadratic."""
    old, new = change.before.splitlines(keepends=True), change.after.splitlines(keepends=True)
    head = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    rest = min(len(old), len(new)) - head
    tail = next((n for n in range(rest) if old[-1 - n] != new[-1 - n]), rest)
    middle_old, middle_new = old[head : len(old) - tail], new[head : len(new) - tail]
    if len(middle_old) * len(middle_new) > 4_000_000:
        return [("replace", head, len(old) - tail, head, len(new) - tail)]
    matcher = difflib.SequenceMatcher(None, middle_old, middle_new, autojunk=False)
    return [(tag, a + head, b + head, c + head, d + head) for tag, a, b, c, d in matcher.get_opcodes()]


def _side(repository: Any, file: Any, max_file_bytes: int) -> str | None:
    """A side's text: empty where the file does not exist, None where it is no text or too large."""
    import pygit2

    if file.id == pygit2.Oid(hex="0" * 40) or file.mode == 0:
        return ""
    found = repository.get(file.id)
    if not isinstance(found, pygit2.Blob) or found.size > max_file_bytes or b"\0" in found.data:
        return None
    try:
        return found.data.decode("utf-8")
    except UnicodeDecodeError:
        return None
