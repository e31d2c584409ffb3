"""What an index has of an owner, a repository or a file, and what kept the rest out of the corpus."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from starloom.artifact import Artifact
from starloom.attribution.answer import Index
from starloom.errors import UserError
from starloom.kinds import Attribution, Corpus
from starloom.opt_outs import entry_for

MOST_ROWS: Final = 1000  # of an answer


NOTHING_DROPPED: Final = pa.table(
    {name: pa.array([], pa.string()) for name in ("id", "repo_name", "path", "stage", "reason")}
)


class Owners:
    """Look-ups by name over an index and, where it is still there, the corpus that it was made of."""

    def __init__(self, view: Attribution, index: Index, *, with_dropped: bool = True) -> None:
        self._view, self._index = view, index
        self._repositories = view.repositories()
        self._dropped: pa.Table | None = None if with_dropped else NOTHING_DROPPED

    def ask(self, *, owner: str = "", repository: str = "", path: str = "", identity: str = "") -> dict[str, Any]:
        """Repositories of an owner, or files of a repository, a path or an id; names are compared in lower case.

        Raises:
            UserError: nothing is asked.
        """
        if owner and not (repository or path or identity):
            found = [row for row in self._of_owner(owner.lower()) if not self._is_hidden(row["repo_name"])]
            return {"repositories": found[:MOST_ROWS], "count": len(found), "in_corpus": bool(found)}
        if not (repository or path or identity):
            raise UserError("owner, repository, path or id: name what to look up")
        wanted = {"repo_name": repository.lower(), "path": path, "id": identity.lower()}
        files = [row for row in self._files(wanted) if not self._is_hidden(row["repository"])]
        dropped = [row for row in self._kept_out(wanted) if not self._is_hidden(row["repository"])]
        return {
            "files": [*files, *dropped][:MOST_ROWS],
            "count": len(files),
            "dropped": len(dropped),
            "in_corpus": bool(files),
        }

    def _is_hidden(self, name: str) -> bool:
        return entry_for(name, self._index.withdrawn()) is not None

    def _of_owner(self, owner: str) -> list[dict[str, Any]]:
        mine = pc.or_(
            pc.equal(pc.utf8_lower(self._repositories["owner"]), owner),
            pc.equal(pc.utf8_lower(self._repositories["repo_name"]), owner),
        )
        rows: list[dict[str, Any]] = self._repositories.filter(mine).to_pylist()
        return rows

    def _files(self, wanted: dict[str, str]) -> Iterator[dict[str, Any]]:
        for segment in self._index.segments:
            for row in _matching(segment.files, wanted).to_pylist():
                yield {
                    "repository": row["repo_name"],
                    "path": row["path"],
                    "id": row["id"],
                    "language": row["language"],
                    "licenses": row["licenses"] or [],
                    "kind": row["kind"],
                    "in_corpus": True,
                }

    def _kept_out(self, wanted: dict[str, str]) -> Iterator[dict[str, Any]]:
        for row in _matching(self._dropped_rows(), wanted).to_pylist():
            yield {
                "repository": row["repo_name"],
                "path": row["path"],
                "id": row["id"],
                "in_corpus": False,
                "stage": row["stage"],
                "reason": row["reason"],
            }

    def _dropped_rows(self) -> pa.Table:
        if self._dropped is None:
            corpus = corpus_of(self._view.artifact)
            self._dropped = corpus.dropped(list(NOTHING_DROPPED.column_names)) if corpus else NOTHING_DROPPED
        return self._dropped


def joined_rows(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Answers about one name by holders of different segments, as one holder of all would give it."""
    if "repositories" in parts[0]:
        return parts[0]  # each holder has the whole table
    files = [row for part in parts for row in part["files"] if row["in_corpus"]]
    dropped = [row for part in parts for row in part["files"] if not row["in_corpus"]]
    count = sum(part["count"] for part in parts)
    return {
        "files": [*files, *dropped][:MOST_ROWS],
        "count": count,
        "dropped": sum(part["dropped"] for part in parts),
        "in_corpus": bool(count),
    }


def corpus_of(artifact: Artifact) -> Corpus | None:
    """The corpus among an artifact's inputs; None where it is gone."""
    places = (artifact.place_of(entry) for entry in artifact.manifest.inputs if entry.kind == Corpus.kind)
    return next((Corpus(Artifact.open(place)) for place in places if place is not None), None)


def _matching(table: pa.Table, wanted: dict[str, str]) -> pa.Table:
    for name, value in wanted.items():
        if value:
            column = table[name] if name == "path" else pc.utf8_lower(table[name])
            table = table.filter(pc.equal(column, value))
    return table
