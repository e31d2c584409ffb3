"""GitHub issues from GH Archive events and from exports of the REST API.

Rules of StarCoder's issues (bigcode-dataset, filtering_issues.py, as the field notes tell them).
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import xxhash
from pydantic import Field

from data_jobs.sources.entries import Item, Listing, Refusal
from starloom import storage
from starloom.config import Config
from starloom.errors import one_line
from starloom.records import Part, join_parts
from starloom.storage import file_state, matching_files

BYTES_PER_UNIT = 64 << 20  # of export per unit: an issue's events lie anywhere, so each unit scans all the files
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
    """Exports as JSON, JSON lines, each plain or ``.gz``: a path, a glob pattern or a URL."""

    kind: Literal["github-issues"] = "github-issues"
    path: str
    repo_name: str | None = None  # for exports that do not name it
    licenses: tuple[str, ...] = ()
    min_characters: int = Field(200, ge=0)
    one_user_characters: int = Field(7000, gt=0)
    one_user_events: int = Field(10, gt=0)
    head_lines: int = Field(60, gt=0)
    tail_lines: int = Field(20, ge=0)

    def listing(self, state: Any = None) -> Listing:
        """Units that share the issues among them by a hash of repository and number."""
        files = matching_files(self.path, setting="sources", what="export")
        total = sum(int(entry[1] or 0) for entry in file_state(files))
        count = 1 + total // BYTES_PER_UNIT
        listing = Listing()
        listing.units += [Issues(self, tuple(files), number, count, total // count) for number in range(count)]
        return listing

    def state(self) -> Any:
        """Name, size and time of change of each file."""
        return file_state(matching_files(self.path, setting="sources", what="export"))


@dataclass(frozen=True)
class Comment:
    """What somebody wrote, or that the issue was closed (no text)."""

    key: str  # orders the comments of an issue: time, then id
    author: str
    text: str
    role: str  # "issue", "comment" or "closed"
    title: str = ""


@dataclass(frozen=True)
class Issues:
    """Share `number` of `count` of the issues in some files."""

    source: GitHubIssuesSource
    files: tuple[str, ...]
    number: int
    count: int
    size: int

    def read(self, max_file_bytes: int) -> Iterator[Item | Refusal]:
        """One item or refusal per issue, and one refusal per line that is no event."""
        threads: dict[tuple[str, int], dict[str, Comment]] = {}
        for location in self.files:
            for record in _records(location):
                if isinstance(record, Refusal):
                    if self.number == 0:
                        yield record
                    continue
                for key, comment in comments_of(record, self.source.repo_name):
                    if xxhash.xxh64_intdigest(f"{key[0]}#{key[1]}".encode()) % self.count == self.number:
                        threads.setdefault(key, {})[f"{comment.role} {comment.key}"] = comment
        for (repo_name, issue), comments in sorted(threads.items()):
            path = f"issues/{issue}"
            content = render_issue(list(comments.values()), self.source)
            if isinstance(content, str) and len(content) <= max_file_bytes:
                licenses = self.source.licenses
                yield Item(repo_name, path, content, licenses, None, None, "github-issues", kind="issue")
            elif isinstance(content, str):
                yield Refusal(repo_name, path, "too_large", f"{len(content)} characters, limit {max_file_bytes}")
            else:
                yield Refusal(repo_name, path, content.reason, content.detail)


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


def _records(location: str) -> Iterator[Mapping[str, Any] | Refusal]:
    name = PurePosixPath(location).name
    try:
        with storage.open_file(location) as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if location.endswith(".gz") else raw
            if file.read(64).lstrip()[:1] == b"[":
                file.seek(0)
                yield from _checked(json.load(file), name, "item")
                return
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield from _checked([json.loads(line)], name, f"line {number}")
                    except (ValueError, RecursionError) as error:
                        yield Refusal("unknown", f"{name}:{number}", "invalid_json", one_line(error, 200))
    except (EOFError, zlib.error, OSError, ValueError) as error:
        yield Refusal("unknown", name, "damaged_export", one_line(error, 200))


def _checked(records: list[Any], name: str, where: str) -> Iterator[Mapping[str, Any] | Refusal]:
    for number, record in enumerate(records):
        if isinstance(record, Mapping):
            yield record
        else:
            yield Refusal("unknown", f"{name}:{where} {number}", "not_an_object", type(record).__name__)


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
