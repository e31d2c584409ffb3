"""Tables in Markdown, for data cards and model cards."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """A table with one line per row; with `numbers` every column but the first is flush right.

    Bars and line breaks in a cell are written so that it stays one cell.
    """
    rule = ["---", *("---:" if numbers else "---" for _ in header[1:])]
    lines = [header, rule, *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split("\n"))
