"""Jupyter notebooks: structured, as text, code and output in turn, or as scripts.

Rules of StarCoder's structured notebooks: neighbouring cells of a kind become one, a leading group of code and a
trailing group of text go, an output is cut at 1,000 characters. Scripts have the percent format of jupytext.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starloom.records import Part, join_parts

OUTPUT_CHARACTERS = 1000
_LANGUAGES = {
    "python": "Python",
    "r": "R",
    "julia": "Julia",
    "scala": "Scala",
    "ruby": "Ruby",
    "javascript": "JavaScript",
}
_SUFFIXES = {"Python": ".py", "R": ".r", "Julia": ".jl", "Scala": ".scala", "Ruby": ".rb", "JavaScript": ".js"}
_COMMENTS = {"JavaScript": "//", "Scala": "//"}


@dataclass(frozen=True)
class Cell:
    """A cell; `output` belongs to code alone. `language` is set where it is not that of the notebook."""

    code: bool
    source: str
    output: str = ""
    language: str | None = None

    @property
    def marked(self) -> str:
        """The source, code in another language than the notebook's below a magic line that says so (``%%bash``)."""
        source = self.source.strip("\n")
        return source if self.language is None or source.startswith("%%") else f"%%{self.language}\n{source}"


@dataclass(frozen=True)
class Notebook:
    """A notebook's cells and the language of its kernel."""

    language: str | None
    cells: tuple[Cell, ...]


def parse(text: str) -> Notebook:
    """Read nbformat 3 or 4.

    Raises:
        ValueError: the text is no notebook; the message says why.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    raw = document.get("cells")
    sheets = document.get("worksheets")
    if raw is None and isinstance(sheets, list):
        lists = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)]
        raw = [cell for cells in lists if isinstance(cells, list) for cell in cells]
    if not isinstance(raw, list):
        raise ValueError("no list of cells")
    raw = [cell for cell in raw if isinstance(cell, dict)]
    language = _language(document, raw)
    return Notebook(language, tuple(_cell(cell, language) for cell in raw))


def structured(notebook: Notebook) -> str | None:
    """The notebook as parts ``text``, ``code``, ``output``; None when no pair of text and code is left."""
    groups: list[list[Cell]] = []
    for cell in notebook.cells:
        if not cell.source.strip():
            continue
        if groups and groups[-1][0].code == cell.code:
            groups[-1].append(cell)
        else:
            groups.append([cell])
    if groups and groups[0][0].code:
        groups = groups[1:]
    if groups and not groups[-1][0].code:
        groups = groups[:-1]
    if not groups:
        return None
    parts = []
    for group in groups:
        text = "\n".join(cell.marked for cell in group)
        parts.append(Part("code" if group[0].code else "text", text))
        if group[0].code:
            outputs = "\n".join(cell.output for cell in group if cell.output)
            parts.append(Part("output", outputs[:OUTPUT_CHARACTERS]))
    return join_parts(parts)


@dataclass(frozen=True)
class Script:
    """A notebook as a program."""

    language: str
    suffix: str
    text: str


def script(notebook: Notebook) -> Script | None:
    """The notebook as a program with its text in comments; None when its language is not known."""
    language = notebook.language
    if language is None or not any(cell.code and cell.source.strip() for cell in notebook.cells):
        return None
    mark = _COMMENTS.get(language, "#")
    blocks = []
    for cell in notebook.cells:
        lines = cell.marked.split("\n")
        if cell.code and lines[0].startswith("%%") and (found := re.match(r"%%(\w+)", lines[0])):
            # another language, as jupytext writes it: no part of this program
            head = f'{mark} %% language="{found[1]}"' if found[1] in _MAGICS else f"{mark} %%"
            blocks.append("\n".join([head, *(f"{mark} {line}".rstrip() for line in lines)]))
        elif cell.code:
            # magics are no part of the language: jupytext comments them out too
            body = [f"{mark} {line}" if re.match(r"\s*[%!]", line) else line for line in lines]
            blocks.append("\n".join([f"{mark} %%", *body]))
        else:
            blocks.append("\n".join([f"{mark} %% [markdown]", *(f"{mark} {line}".rstrip() for line in lines)]))
    return Script(language, _SUFFIXES[language], "\n\n".join(blocks) + "\n")


# magics that run the cell in another language
_MAGICS = frozenset(
    """bash cython html javascript js julia latex markdown perl powershell R ruby script sh sql svg writefile""".split()  # noqa: SIM905
)


def _cell(cell: Mapping[str, Any], notebook: str | None) -> Cell:
    code = cell.get("cell_type") == "code"
    source = _joined(cell.get("source", cell.get("input", "")))
    outputs = cell.get("outputs") if code else None
    text = "\n".join(filter(None, map(_output, outputs))) if isinstance(outputs, list) else ""
    language = _own_language(cell) if code else None
    same = language is None or _LANGUAGES.get(_plain(language)) == notebook or language == notebook
    return Cell(code, source, text, None if same else language)


def _own_language(cell: Mapping[str, Any]) -> str | None:
    """What the cell says of itself: nbformat 3, VS Code, Polyglot, SoS."""
    metadata = cell.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    inner = [metadata.get(name) for name in ("vscode", "polyglot_notebook", "dotnet_interactive")]
    candidates = [cell.get("language"), metadata.get("kernel"), metadata.get("language")]
    candidates += [
        one.get(key) for one in inner if isinstance(one, dict) for key in ("languageId", "kernelName", "language")
    ]
    return next(
        (one for one in candidates if isinstance(one, str) and re.fullmatch(r"[A-Za-z][\w+#.-]{0,30}", one)), None
    )


def _plain(name: str) -> str:
    return re.sub(r"[\d.]+$", "", name).lower()


def _output(output: Any) -> str:
    if not isinstance(output, dict):
        return ""
    if "text" in output:
        return _joined(output["text"]).rstrip("\n")
    data = output.get("data")
    if isinstance(data, dict):
        return _joined(data.get("text/plain", "")).rstrip("\n")
    if "ename" in output:
        return f"{output.get('ename')}: {output.get('evalue')}"
    return ""


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _language(document: Mapping[str, Any], cells: list[dict[str, Any]]) -> str | None:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    told = False
    for section in ("language_info", "kernelspec"):
        found = metadata.get(section)
        if isinstance(found, dict):
            name = found.get("name") if section == "language_info" else found.get("language") or found.get("name")
            told = told or bool(name)
            known = _LANGUAGES.get(_plain(str(name or "")))
            if known:
                return known
    if told:
        return None
    # nbformat 3 says it in each cell; before there were other kernels nobody said anything
    own = Counter(
        str(cell.get("language")) for cell in cells if cell.get("cell_type") == "code" and cell.get("language")
    )
    if own:
        return _LANGUAGES.get(_plain(own.most_common(1)[0][0]))
    return "Python"
