"""GitHub issues from GH Archive events and from exports of the REST API.

Rules of StarCoder's issues (bigcode-dataset, filtering_issues.py, as the field notes tell them).
"""

import io
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Literal

import xxhash
from pydantic import Field

from data_jobs.sources.entries import Item, Limits, Listed, Refusal, Refused, Spill
from data_jobs.sources.packed import json_records
from starloom.config import Config
from starloom.content import files_state
from starloom.errors import one_line
from starloom.records import Part, join_parts
from starloom.storage import file_state, matching_files

BYTES_PER_UNIT = 64 << 20  # of export per unit: an issue's events lie anywhere in the files
SEGMENT_BYTES = 64 << 20  # of events that the listing of a file holds in memory
_BOT = re.compile(
    r"\[bot\]$|[-_]bot$|^bot[-_]|^(?:dependabot|renovate|greenkeeper|codecov|stale|travis)\b", re.IGNORECASE
)
_EMAIL_TAIL = re.compile(
    r"\n(?:On [^\n]{5,200} wrote:|-{2,}\s*Original Message|Reply to this email directly|You are receiving this because)"
    r".*\Z",
    re.DOTALL,
)
_QUOTED_MAIL = re.compile(r"^(?:From|Sent|To|Cc|Subject):[^\n]*\n", re.MULTILINE)


class GitHubIssuesSource(Config):
    """Exports as JSON or JSON lines, plain or packed: a path, a glob pattern or a URL."""

    kind: Literal["github-issues"] = "github-issues"
    path: str
    repo_name: str | None = None  # for exports that do not name it
    licenses: tuple[str, ...] = ()
    min_characters: int = Field(200, ge=0)
    one_user_characters: int = Field(7000, gt=0)
    one_user_events: int = Field(10, gt=0)
    head_lines: int = Field(60, gt=0)
    tail_lines: int = Field(20, ge=0)

    def places(self, state: Any = None) -> list["IssuePlace"]:
        """The files."""
        files = matching_files(self.path, setting="sources", what="export")
        total = sum(int(entry[1] or 0) for entry in file_state(files))
        return [IssuePlace(self, location, 1 + total // BYTES_PER_UNIT) for location in files]

    def gathered(self, spills: Sequence[Spill]) -> Iterator["Issues"]:
        """Units that share the issues among them by a hash of repository and number."""
        count = self.places()[0].units
        for number in range(count):
            yield Issues(self, tuple(spills), number, BYTES_PER_UNIT if count > 1 else 1)

    def state(self) -> Any:
        """Name, size and digest of each file."""
        return files_state(matching_files(self.path, setting="sources", what="export"))

    def timed(self) -> Any:
        """The state of before: names, sizes and times."""
        return file_state(matching_files(self.path, setting="sources", what="export"))


@dataclass(frozen=True)
class Comment:
    """What somebody wrote, or that the issue was closed (no text)."""

    key: str  # orders the comments of an issue: time, then id
    author: str
    text: str
    role: str  # "issue", "comment" or "closed"
    title: str = ""


Key = tuple[str, int]  # repository and number of an issue


@dataclass(frozen=True)
class IssuePlace:
    """One file of events."""

    source: GitHubIssuesSource
    location: str
    units: int  # that the issues are shared among

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """Its events, sorted by unit into one file (a shuffle's map side); and a refusal per record that is none."""
        name = PurePosixPath(self.location).name
        held: list[list[tuple[Key, Comment]]] = [[] for _ in range(self.units)]
        size = 0
        segments: list[list[int]] = []
        with spill.output.create(_events(spill)) as file:
            for place, found in json_records(self.location, name, "unknown"):
                events = _events_of(found, self.source.repo_name, f"{name}:{place}")
                if isinstance(events, Refusal):
                    yield Refused(events)
                    continue
                for key, comment in events:
                    unit = xxhash.xxh64_intdigest(f"{key[0]}#{key[1]}".encode("utf-8", "surrogatepass")) % self.units
                    held[unit].append((key, comment))
                    size += len(comment.text) + 200
                if size > SEGMENT_BYTES:
                    segments.append(_write_segment(held, file))
                    size = 0
            segments.append(_write_segment(held, file))
            index = pickle.dumps(segments)
            file.write(index + len(index).to_bytes(8, "little"))


def _events(spill: Spill) -> str:
    return f"{spill.folder}/events"


def _events_of(found: Any, repo_name: str | None, where: str) -> list[tuple[Key, Comment]] | Refusal:
    if isinstance(found, Refusal):
        return found
    try:
        return list(comments_of(found, repo_name))
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        return Refusal("unknown", where, "not_an_event", one_line(f"{type(error).__name__}: {error}", 200))


def _write_segment(held: list[list[tuple[Key, Comment]]], file: IO[bytes]) -> list[int]:
    """Write what is held, unit by unit, and forget it; where each unit begins, and the end."""
    bounds = []
    for unit in held:
        bounds.append(file.tell())
        if unit:
            pickle.dump(unit, file, protocol=5)
        unit.clear()
    return [*bounds, file.tell()]


@dataclass(frozen=True)
class Issues:
    """Share `number` of the issues in some files."""

    source: GitHubIssuesSource
    spills: tuple[Spill, ...]
    number: int
    size: int
    scope: str = ""

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """One item or refusal per issue."""
        threads: dict[Key, dict[str, Comment]] = {}
        for spill in self.spills:
            for key, comment in self._share(spill):
                threads.setdefault(key, {})[f"{comment.role} {comment.key}"] = comment
        for (repo_name, issue), comments in sorted(threads.items()):
            path = f"issues/{issue}"
            content = render_issue(list(comments.values()), self.source)
            if isinstance(content, str) and len(content) <= limits.file:
                licenses = self.source.licenses
                yield Item(repo_name, path, content, licenses, None, None, "github-issues", kind="issue")
            elif isinstance(content, str):
                yield Refusal(repo_name, path, "too_large", f"{len(content)} characters, limit {limits.file}")
            else:
                yield Refusal(repo_name, path, content.reason, content.detail)

    def _share(self, spill: Spill) -> Iterator[tuple[Key, Comment]]:
        with spill.output.open_file(_events(spill)) as file:
            file.seek(-8, io.SEEK_END)
            length = int.from_bytes(file.read(8), "little")
            file.seek(-8 - length, io.SEEK_END)
            for bounds in pickle.loads(file.read(length)):
                if bounds[self.number] < bounds[self.number + 1]:
                    file.seek(bounds[self.number])
                    yield from pickle.load(file)


@dataclass(frozen=True)
class Unfit:
    """Why an issue is not kept."""

    reason: str
    detail: str = ""


def render_issue(comments: list[Comment], rules: GitHubIssuesSource) -> str | Unfit:
    """An issue as parts with its authors numbered, or why it is not kept."""
    ordered = sorted(comments, key=lambda comment: (comment.role != "issue", comment.key, comment.role))
    if not ordered or ordered[0].role != "issue":
        return Unfit("no_opening", "the export lacks the issue itself")
    people = [c for c in ordered if not _BOT.search(c.author)]
    if not people or people[0].role != "issue":
        return Unfit("bot_issue")
    users = {name: f"username_{n}" for n, name in enumerate(dict.fromkeys(c.author for c in people))}
    texts = [shorten(strip_mail(comment.text), rules.head_lines, rules.tail_lines) for comment in people]
    length = len(people[0].title) + sum(map(len, texts))
    if length < rules.min_characters:
        return Unfit("short_issue", f"{length} characters, at least {rules.min_characters}")
    if len(users) < 2 and (length > rules.one_user_characters or len(people) > rules.one_user_events):
        return Unfit("one_user", f"{length} characters in {len(people)} events")
    mention = _mentions(users)
    parts = [Part("title", mention(people[0].title))]
    for comment, text in zip(people, texts, strict=True):
        if comment.role == "closed":
            parts.append(Part("closed", ""))
        else:
            parts.append(Part("comment", f"{users[comment.author]}: {mention(text)}"))
    return join_parts(parts)


def strip_mail(text: str) -> str:
    """A comment without what a mail program added to it."""
    return _QUOTED_MAIL.sub("", _EMAIL_TAIL.sub("", text.replace("\r\n", "\n"))).strip()


def shorten(text: str, head: int, tail: int) -> str:
    """The first and last lines of a long comment, with a mark between."""
    lines = text.split("\n")
    if len(lines) <= head + tail:
        return text
    return "\n".join([*lines[:head], "[Truncated]", *lines[len(lines) - tail :]])


def comments_of(record: Mapping[str, Any], repo_name: str | None) -> Iterator[tuple[tuple[str, int], Comment]]:
    """What one record says: a GH Archive event, a REST issue (with its comments where they are inside), a comment."""
    payload = record.get("payload")
    if isinstance(payload, Mapping):
        repo = _text(_mapping(record.get("repo")).get("name")) or repo_name or "unknown"
        issue = _mapping(payload.get("issue"))
        at = _text(record.get("created_at"))
        yield from _issue(issue, repo)
        comment = payload.get("comment")
        number = issue.get("number")
        if isinstance(comment, Mapping) and isinstance(number, int):
            yield (repo, number), _comment(comment, "comment")
        elif payload.get("action") == "closed" and isinstance(number, int):
            yield (repo, number), Comment(at, _login(_mapping(record.get("actor"))), "", "closed")
        return
    repo = _repository(record) or repo_name or "unknown"
    url = _text(record.get("issue_url"))
    if url:
        yield (repo, int(url.rsplit("/", 1)[-1])), _comment(record, "comment")
        return
    yield from _issue(record, repo)
    comments: list[Any] = next(
        (record[k] for k in ("comments_list", "comments_data", "comments") if isinstance(record.get(k), list)), []
    )
    for comment in comments:
        if isinstance(comment, Mapping) and isinstance(record.get("number"), int):
            yield (repo, record["number"]), _comment(comment, "comment")
    if _text(record.get("closed_at")) and isinstance(record.get("number"), int):
        yield (repo, record["number"]), Comment(_text(record["closed_at"]), _login(record.get("user")), "", "closed")


def _issue(issue: Mapping[str, Any], repo: str) -> Iterator[tuple[tuple[str, int], Comment]]:
    number = issue.get("number")
    if isinstance(number, int) and "pull_request" not in issue:
        author = _login(issue.get("user"))
        yield (repo, number), Comment("", author, _text(issue.get("body")), "issue", _text(issue.get("title")))


def _comment(comment: Mapping[str, Any], role: str) -> Comment:
    key = f"{_text(comment.get('created_at'))} {comment.get('id', '')!s:>20}"
    return Comment(key, _login(comment.get("user")), _text(comment.get("body")), role)


def _mentions(users: Mapping[str, str]) -> Any:
    names = "|".join(re.escape(name) for name in sorted(users, key=len, reverse=True) if name)
    pattern = re.compile(rf"@({names})(?![\w-])") if names else None
    return lambda text: pattern.sub(lambda found: "@" + users[found[1]], text) if pattern else text


def _repository(record: Mapping[str, Any]) -> str:
    url = _text(record.get("repository_url")) or _text(record.get("url"))
    found = re.search(r"/repos/([^/]+/[^/]+)", url)
    return found[1] if found else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _login(user: Any) -> str:
    return _text(_mapping(user).get("login")) or "ghost"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
