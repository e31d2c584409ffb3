"""Jupyter notebooks: structured, as text, code and output in turn, or as scripts.

Rules of StarCoder's structured notebooks: neighbouring cells of a kind become one, a leading group of code and a
trailing group of text go, an output is cut at 1,000 characters. Scripts have the percent format of jupytext.
"""

import json
import re
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
    """A cell; `output` belongs to code alone."""

    code: bool
    source: str
    output: str = ""


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
    if raw is None and isinstance(document.get("worksheets"), list):
        raw = [cell for sheet in document["worksheets"] if isinstance(sheet, dict) for cell in sheet.get("cells", [])]
    if not isinstance(raw, list):
        raise ValueError("no list of cells")
    cells = tuple(_cell(cell) for cell in raw if isinstance(cell, dict))
    return Notebook(_language(document), cells)


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
        text = "\n".join(cell.source.strip("\n") for cell in group)
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
        lines = cell.source.strip("\n").split("\n")
        if cell.code:
            # magics are no part of the language: jupytext comments them out too
            body = [f"{mark} {line}" if re.match(r"\s*[%!]", line) else line for line in lines]
            blocks.append("\n".join([f"{mark} %%", *body]))
        else:
            blocks.append("\n".join([f"{mark} %% [markdown]", *(f"{mark} {line}".rstrip() for line in lines)]))
    return Script(language, _SUFFIXES[language], "\n\n".join(blocks) + "\n")


def _cell(cell: Mapping[str, Any]) -> Cell:
    code = cell.get("cell_type") == "code"
    source = _joined(cell.get("source", cell.get("input", "")))
    outputs = cell.get("outputs") if code else None
    text = "\n".join(filter(None, map(_output, outputs))) if isinstance(outputs, list) else ""
    return Cell(code, source, text)


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


def _language(document: Mapping[str, Any]) -> str | None:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    for section in ("language_info", "kernelspec"):
        found = metadata.get(section)
        if isinstance(found, dict):
            name = found.get("name") if section == "language_info" else found.get("language") or found.get("name")
            known = _LANGUAGES.get(re.sub(r"[\d.]+$", "", str(name or "")).lower())
            if known:
                return known
    return None if metadata else "Python"  # nbformat 3 of before there were other kernels
