"""What comes into the corpus: an item's bytes become rows of the corpus, or refusals with their reason."""

import hashlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from data_jobs.admission import notebooks
from data_jobs.languages import Languages, extension_of
from data_jobs.licenses import Inherited, spdx_header
from data_jobs.sources.entries import Item, Refusal
from starloom.errors import one_line

Record = dict[str, Any]  # a row in starloom.schema.CORPUS

_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Admission:
    """The rules of entry; pure functions of an item."""

    languages: Languages
    max_file_bytes: int
    notebooks: Literal["structured", "script", "both", "drop"] = "structured"
    nameless: Literal["drop", "magika"] = "drop"
    inherited: Inherited = field(default_factory=Inherited)

    def admit(self, item: Item) -> Iterator[Record | Refusal]:
        """The rows of one item, or one refusal."""
        text = self._text(item)
        if isinstance(text, Refusal):
            yield text
        elif item.kind != "file":
            yield self._record(item, item.path, text, item.language, item.kind)
        elif item.path.lower().endswith(".ipynb"):
            yield from self._notebook(item, text)
        else:
            language = item.language or self._language(item.path, text)
            if language is None:
                yield _refuse(item, "unknown_language", extension_of(item.path))
            else:
                yield self._record(item, item.path, text, language, "file")

    def _text(self, item: Item) -> str | Refusal:
        content = item.content
        if isinstance(content, str):
            try:
                content = content.encode("utf-8")
            except UnicodeEncodeError as error:
                return _refuse(item, "not_utf8", f"an unpaired surrogate at character {error.start}")
        if len(content) > self.max_file_bytes:
            return _refuse(item, "too_large", f"{len(content)} bytes, limit {self.max_file_bytes}")
        if not content:
            return _refuse(item, "empty")
        for mark, name in _BYTE_ORDER_MARKS:
            if content.startswith(mark):
                return _refuse(item, "not_utf8", f"{name} by its byte order mark")
        if b"\0" in content:
            return _refuse(item, "binary", "holds a NUL byte")
        if content.startswith(_LFS):
            return _refuse(item, "lfs_pointer", "the file itself is in git LFS")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            return _refuse(item, "not_utf8", f"byte {error.start}")

    def _language(self, path: str, text: str) -> str | None:
        found = self.languages.of(path, text)
        if found is None and self.nameless == "magika" and not extension_of(path):
            from data_jobs.admission.magika import language_of_content

            return language_of_content(text, self.languages)
        return found

    def _notebook(self, item: Item, text: str) -> Iterator[Record | Refusal]:
        if self.notebooks == "drop":
            yield _refuse(item, "notebook", "notebooks = 'drop'")
            return
        try:
            notebook = notebooks.parse(text)
        except ValueError as error:
            yield _refuse(item, "not_a_notebook", one_line(error, 200))
            return
        rows: list[Record] = []
        if self.notebooks in ("structured", "both"):
            content = notebooks.structured(notebook)
            if content is not None:
                rows.append(self._record(item, item.path, content, notebook.language, "notebook"))
        if self.notebooks in ("script", "both"):
            script = notebooks.script(notebook)
            if script is not None and script.language in self.languages.by_name:
                path = posixpath.splitext(item.path)[0] + script.suffix
                rows.append(self._record(item, path, script.text, script.language, "file"))
        if rows:
            yield from rows
        else:
            yield _refuse(item, "empty_notebook", "no cells to keep")

    def _record(self, item: Item, path: str, text: str, language: str | None, kind: str) -> Record:
        licenses = spdx_header(text) or item.licenses or self.inherited.of(item.repo_name, item.path)
        return {
            "id": hashlib.sha256(text.encode()).hexdigest(),
            "repo_name": item.repo_name,
            "path": path,
            "language": language,
            "licenses": list(licenses),
            "stars": item.stars,
            "commit": item.commit,
            "source": item.source,
            "kind": kind,
            "content": text,
        }


def _refuse(item: Item, reason: str, detail: str = "") -> Refusal:
    return Refusal(item.repo_name, item.path, reason, detail)
