"""What comes into the corpus: an item's bytes become rows of the corpus, or refusals with their reason."""

import hashlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from data_jobs.admission import notebooks
from data_jobs.admission.encodings import NotTextError, Text, decode
from data_jobs.languages import Languages, extension_of
from data_jobs.licenses.coverage import Coverage, Covered
from data_jobs.licenses.expressions import conjoined, parse_or_unparsed
from data_jobs.sources.entries import Item, Limits, Refusal
from data_jobs.sources.names import is_utf8
from starloom import records
from starloom.errors import StarloomError, one_line
from starloom.storage import printable

Record = dict[str, Any]  # a row in starloom.schema.CORPUS

_LFS = b"version https://git-lfs.github.com/spec/"
_NAMES = ("repo_name", "path", "commit", "language", "source")


@dataclass(frozen=True)
class Admission:
    """The rules of entry; pure functions of an item."""

    languages: Languages
    limits: Limits
    notebooks: Literal["structured", "script", "both", "drop"] = "structured"
    nameless: Literal["drop", "magika"] = "drop"
    selection: frozenset[str] | None = None  # names of languages; None: all of the table
    coverage: Coverage = field(default_factory=Coverage)

    def admit(self, item: Item) -> Iterator[Record | Refusal]:
        """The rows of one item, or one refusal; whatever an item holds, it is one of the two."""
        try:
            # all at once: an item is never half of its rows and a refusal
            yield from list(self._admitted(item))
        except (StarloomError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - a fault of one record must not end a run of days; it is counted
            yield _refuse(item, "unreadable_record", one_line(f"{type(error).__name__}: {error}", 200))

    def _admitted(self, item: Item) -> Iterator[Record | Refusal]:
        text = self._text(item)
        if isinstance(text, Refusal):
            yield text
        elif item.kind != "file":
            yield self._other(item, text)
        elif item.path.lower().endswith(".ipynb"):
            yield from self._notebook(item, text)
        elif len(text.content.encode()) > self.limits.file:
            yield _refuse(item, "too_large", f"more than {self.limits.file} bytes as UTF-8")
        else:
            yield self._file(item, text)

    def _file(self, item: Item, text: Text) -> Record | Refusal:
        language = self.languages.named(item.language) if item.language else self._language(item.path, text.content)
        if language is None:
            return _refuse(item, "unknown_language", item.language or extension_of(item.path))
        if self.selection is not None and language not in self.selection:
            return _refuse(item, "language_not_selected", language)
        return self._record(item, item.path, text, language, "file")

    def _other(self, item: Item, text: Text) -> Record | Refusal:
        """A record of a table or of history: its kind must be what it says."""
        try:
            records.check_kind(item.kind, text.content)
        except ValueError as error:
            return _refuse(item, "not_its_kind", one_line(error, 200))
        return self._record(item, item.path, text, self.languages.named(item.language or ""), item.kind)

    def _text(self, item: Item) -> Text | Refusal:
        for name in _NAMES:
            value = getattr(item, name)
            if value is not None and not is_utf8(value):
                return _refuse(
                    item, "path_not_utf8" if name == "path" else "not_utf8", f"an unpaired surrogate in {name}"
                )
        content, text = item.content, None
        if isinstance(content, str):
            if not is_utf8(content):
                return _refuse(item, "not_utf8", "an unpaired surrogate")
            if "\0" in content:
                return _refuse(item, "binary", "holds a NUL character")
            text = Text(content.removeprefix("\ufeff"), "utf-8")
            content = content.encode()
        limit = self.limits.of(item.path) if item.kind == "file" else self.limits.file
        if len(content) > limit:
            return _refuse(item, "too_large", f"{len(content)} bytes, limit {limit}")
        if not content:
            return _refuse(item, "empty")
        if content.startswith(_LFS):
            return _refuse(item, "lfs_pointer", "the file itself is in git LFS")
        try:
            text = text or decode(content, item.encoding)
        except NotTextError as error:
            return _refuse(item, error.reason, str(error))
        return text if text.content else _refuse(item, "empty", "nothing but a byte order mark")

    def _language(self, path: str, text: str) -> str | None:
        found = self.languages.of(path, text)
        if found is None and self.nameless == "magika" and not extension_of(path):
            from data_jobs.admission.magika import language_of_content

            return language_of_content(text, self.languages)
        return found

    def _notebook(self, item: Item, text: Text) -> Iterator[Record | Refusal]:
        if self.notebooks == "drop":
            yield _refuse(item, "notebook", "notebooks = 'drop'")
            return
        try:
            notebook = notebooks.parse(text.content)
        except ValueError as error:
            yield _refuse(item, "not_a_notebook", one_line(error, 200))
            return
        rows: list[tuple[str, str, str | None, str]] = []  # path, text, language, kind
        if self.notebooks in ("structured", "both"):
            content = notebooks.structured(notebook)
            if content is not None:
                rows.append((item.path, content, notebook.language, "notebook"))
        if self.notebooks in ("script", "both"):
            script = notebooks.script(notebook)
            if script is not None and script.language in self.languages.by_name:
                rows.append((posixpath.splitext(item.path)[0] + script.suffix, script.text, script.language, "file"))
        if not rows:
            yield _refuse(item, "empty_notebook", "no cells to keep")
        for path, content, language, kind in rows:
            if not is_utf8(content):
                yield _refuse(item, "not_utf8", "an unpaired surrogate in a cell")
            elif len(content.encode()) > self.limits.file:
                yield _refuse(item, "too_large", f"{len(content)} characters without most of its outputs")
            elif self.selection is not None and language is not None and language not in self.selection:
                yield _refuse(item, "language_not_selected", language)
            else:
                yield self._record(item, path, Text(content.replace("\0", ""), text.encoding), language, kind)

    def _record(self, item: Item, path: str, text: Text, language: str | None, kind: str) -> Record:
        covered = self._covered(item, text.content if kind == "file" else None)
        return {
            "id": hashlib.sha256(text.content.encode()).hexdigest(),
            "repo_name": item.repo_name,
            "path": path,
            "language": language,
            "licenses": list(covered.licenses),
            "license_source": covered.source,
            "stars": item.stars,
            "commit": item.commit,
            "source": item.source,
            "kind": kind,
            "encoding": text.encoding,
            "content": text.content,
        }

    def _covered(self, item: Item, text: str | None) -> Covered:
        given = [one for one in item.licenses if one.strip().lower() not in _NO_LICENSE]
        if given:
            source = Covered(conjoined(*map(parse_or_unparsed, given)), f"given with the {item.source or 'source'}")
            return self.coverage.of(item.scope, item.path, text, given=source)
        if item.scope or item.kind == "file":
            return self.coverage.of(item.scope, item.path, text)
        return self.coverage.of_name(item.repo_name)


_NO_LICENSE = frozenset({"", "no_license", "none", "noassertion", "unknown"})


def _refuse(item: Item, reason: str, detail: str = "") -> Refusal:
    return printable_refusal(Refusal(item.repo_name, item.path, reason, detail))


def printable_refusal(refusal: Refusal) -> Refusal:
    """The refusal in text that a table can hold."""
    return Refusal(printable(refusal.repo_name), printable(refusal.path), refusal.reason, printable(refusal.detail))
