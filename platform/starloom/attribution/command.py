"""``starloom attribute RUN FILE`` and ``starloom lookup RUN OWNER[/REPO[/PATH]]``: answers without a service."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starloom.artifact import newest
from starloom.attribution.answer import MOST_CHARACTERS, Index, Query
from starloom.attribution.lexing import known_language
from starloom.attribution.owners import Owners
from starloom.errors import UserError
from starloom.kinds import Attribution


def index_of(run: str) -> Attribution:
    """The newest index of a run.

    Raises:
        UserError: there is none.
    """
    found = newest(run, Attribution.kind)
    if found is None:
        raise UserError(f"{run}: holds no index; add a step that runs data_jobs.index, and run the recipe")
    return Attribution(found)


def attribute(argv: Sequence[str]) -> int:
    """Print what of a file stands in the corpus. Returns 0 when nothing does, 1 when something does.

    Raises:
        UserError: the file cannot be read, or the language is not known.
    """
    parser = argparse.ArgumentParser(prog="starloom attribute", description="What of a text stands in the corpus.")
    parser.add_argument("run", metavar="RUN", help="a run's root, with an index")
    parser.add_argument("file", metavar="FILE", help="the text to look up; - for standard input")
    parser.add_argument("--language", help="how its comments are written (default: every way is tried)")
    parser.add_argument("--ignore", action="append", default=[], metavar="NAME", help="an owner or owner/repo")
    parser.add_argument("--json", action="store_true", help="the whole answer, as the service gives it")
    arguments = parser.parse_args(list(argv))
    text = _read(arguments.file)
    index = Index.open(index_of(arguments.run))
    if arguments.language and not known_language(arguments.language):
        raise UserError(f"--language: it is not known how {arguments.language!r} writes comments; leave it out")
    query = Query(text, arguments.language, offsets="utf-8", ignore=tuple(arguments.ignore))
    answer = index.ask(query)
    if arguments.json:
        print(json.dumps(answer, indent=1))
    else:
        print("\n".join(lines_of(answer, text)))
    return 1 if answer["matches"] else 0


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    text = data.decode("utf-8", "replace")
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{file}: {len(text):,} characters are more than {MOST_CHARACTERS:,}; give a part of it")
    return text


def lines_of(answer: dict[str, Any], text: str) -> list[str]:
    """An answer, with offsets in bytes, as lines for people."""
    data = text.encode("utf-8", "surrogatepass")
    lines = []
    for match in answer["matches"]:
        start, end = match["span"]
        first, last = (1 + data[:at].count(b"\n") for at in (start, max(start, end - 1)))
        licenses = ", ".join(f"{name} ({count:,})" for name, count in match["licenses"].items())
        more = "" if answer["complete"] else " or more"
        lines.append(
            f"lines {first}–{last}, {end - start:,} bytes, {match['kind'].replace('_', ' ')}: "
            f"in {match['count']:,}{more} files; {licenses}"
        )
        for file in match["files"][:3]:
            low, high = file["lines"]
            lines.append(f"  {file['repository']}/{file['path']} lines {low}–{high}")
    if not lines:
        lines.append("nothing of it stands in the corpus")
    if not answer["complete"]:
        lines.append("there may be more: the work was ended where it became too much")
    return lines


def lookup(argv: Sequence[str]) -> int:
    """Print what the corpus has of an owner, a repository or a file. Returns 0 when it has something, else 1."""
    parser = argparse.ArgumentParser(prog="starloom lookup", description="What the corpus has of somebody.")
    parser.add_argument("run", metavar="RUN", help="a run's root, with an index")
    parser.add_argument("name", metavar="OWNER[/REPO[/PATH]]")
    parser.add_argument("--json", action="store_true", help="the whole answer, as the service gives it")
    arguments = parser.parse_args(list(argv))
    view = index_of(arguments.run)
    owners = Owners(view, Index.open(view))
    owner, _, rest = arguments.name.strip("/").partition("/")
    repository, _, path = rest.partition("/")
    if repository:
        answer = owners.ask(repository=f"{owner}/{repository}", path=path)
    else:
        answer = owners.ask(owner=owner)
    if arguments.json:
        print(json.dumps(answer, indent=1))
    else:
        print("\n".join(_rows(answer, arguments.name)))
    return 0 if answer["in_corpus"] else 1


def _rows(answer: dict[str, Any], name: str) -> list[str]:
    lines = []
    for row in answer.get("repositories", ()):
        licenses = ", ".join(row["licenses"]) or "no licence"
        lines.append(f"{row['repo_name']}: {row['files']:,} files, {row['bytes'] / 1e6:,.1f} MB; {licenses}")
    for row in answer.get("files", ()):
        state = "in the corpus" if row["in_corpus"] else f"dropped by {row['stage']}: {row['reason']}"
        lines.append(f"{row['repository']}/{row['path']}: {state}")
    return lines or [f"{name}: the corpus has nothing of it"]
