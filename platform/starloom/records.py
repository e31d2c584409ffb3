"""The text of a record that has parts (an issue's comments, a notebook's cells, a commit's two sides).

The parts travel in the corpus's ``content`` as plain text between ASCII separators, so that every rule that reads text
reads them too, and an edit inside a part cannot break the structure. Here they are written, read, and rendered as the
model sees them; nobody else knows the separators.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_RECORD = "\x1e"
_UNIT = "\x1f"
_REMOVED = str.maketrans({_RECORD: None, _UNIT: None, "\0": None})


@dataclass(frozen=True)
class Part:
    """A role (``title``, ``comment``, ``code``, ``output``, ``before``, ...) and its text."""

    role: str
    text: str


@dataclass(frozen=True)
class Special:
    """A control token in a document."""

    token: str


Piece = str | Special  # strings are encoded as text


@dataclass(frozen=True)
class Commit:
    """A change of one file; both sides are whole files or windows around the change."""

    before: str
    message: str
    after: str


def join_parts(parts: Iterable[Part]) -> str:
    """The parts as one string; separators that occur in a text are removed from it."""
    return "".join(f"{_RECORD}{part.role}{_UNIT}{part.text.translate(_REMOVED)}" for part in parts)


def split_parts(content: str) -> list[Part]:
    """The parts of a string that `join_parts` made.

    Raises:
        ValueError: the string has no such structure.
    """
    if not content.startswith(_RECORD):
        raise ValueError("the content has no parts")
    parts = []
    for record in content[1:].split(_RECORD):
        role, separator, text = record.partition(_UNIT)
        if not separator:
            raise ValueError(f"a part without a role: {record[:40]!r}")
        parts.append(Part(role, text))
    return parts


_ROLES = {
    "issue": frozenset({"title", "comment", "closed"}),
    "commit": frozenset({"before", "message", "after"}),
    "notebook": frozenset({"text", "code", "output"}),
}


def check_kind(kind: str, content: str) -> None:
    """Hold a record against its kind.

    Raises:
        ValueError: the content has no parts, or others than a record of that kind has.
    """
    roles = [part.role for part in split_parts(content)]
    strange = sorted(set(roles) - _ROLES[kind])
    if strange:
        raise ValueError(f"a part {strange[0][:40]!r} in a record of kind {kind}")
    if kind == "commit" and sorted(roles) != ["after", "before", "message"]:
        raise ValueError("a commit has one part before, message and after each")
    if kind == "issue" and roles[0] != "title":
        raise ValueError("an issue begins with its title")


def join_commit(commit: Commit) -> str:
    """A commit as one string."""
    return join_parts([Part("before", commit.before), Part("message", commit.message), Part("after", commit.after)])


def split_commit(content: str) -> Commit:
    """The commit of a string that `join_commit` made.

    Raises:
        ValueError: the string is none.
    """
    by_role = {part.role: part.text for part in split_parts(content)}
    try:
        return Commit(by_role["before"], by_role["message"], by_role["after"])
    except KeyError as error:
        raise ValueError(f"a commit without its part {error}") from None


def kind_of(content: str) -> str:
    """The kind (`schema.KINDS`) that a content's own structure tells."""
    try:
        roles = {part.role for part in split_parts(content)}
    except ValueError:
        return "file"
    if "title" in roles:
        return "issue"
    return "commit" if "before" in roles else "notebook"


def render(kind: str, content: str) -> list[Piece]:
    """A row's content as training sees it: text and control tokens, without metadata and end-of-text.

    Raises:
        ValueError: the content has not the structure of its kind.
    """
    match kind:
        case "issue":
            return _issue(split_parts(content))
        case "commit":
            return _commit(split_commit(content))
        case "notebook":
            return _notebook(split_parts(content))
        case _:
            return [content]


def texts(kind: str, content: str) -> list[str]:
    """The text in a row's content, piece by piece, without control tokens.

    Raises:
        ValueError: the content has not the structure of its kind.
    """
    return [piece for piece in render(kind, content) if isinstance(piece, str)]


def _issue(parts: Sequence[Part]) -> list[Piece]:
    title = next((part.text for part in parts if part.role == "title"), "")
    pieces: list[Piece] = [Special("<issue_start>"), title]
    opening = True
    for part in parts:
        if part.role == "closed":
            pieces.append(Special("<issue_closed>"))
        elif part.role == "comment":
            # the opening text follows its title without a token of its own
            pieces += [f"\n{part.text}"] if opening else [Special("<issue_comment>"), part.text]
            opening = False
    return pieces


def _commit(commit: Commit) -> list[Piece]:
    marks = Special("<commit_before>"), Special("<commit_msg>"), Special("<commit_after>")
    return [marks[0], commit.before, marks[1], commit.message, marks[2], commit.after]


def _notebook(parts: Sequence[Part]) -> list[Piece]:
    pieces: list[Piece] = [Special("<jupyter_start>")]
    for part in parts:
        if part.role == "output" and not part.text:
            pieces.append(Special("<empty_output>"))
        else:
            pieces += [Special(f"<jupyter_{part.role}>"), part.text]
    return pieces
