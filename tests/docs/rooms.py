"""The list of a room's files in its README: one line each, the first of the file's own docstring.

``python -m tests.docs.rooms`` writes the lists anew.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# a room's README, and the folder that its list is of
ROOMS = {
    "platform/README.md": "platform/starloom",
    "data_jobs/README.md": "data_jobs",
    "train_jobs/README.md": "train_jobs",
    "serve_apps/README.md": "serve_apps",
}
WIDTH = 120
LIST = re.compile(r"(?<=<!-- files -->\n)```\n.*?```\n(?=<!-- /files -->)", re.DOTALL)


def listing(folder: Path) -> str:
    """The list of a folder, as it stands in the README."""
    return "```\n" + "".join(f"{line}\n" for line in _lines(folder, 0)) + "```\n"


def _lines(folder: Path, depth: int) -> list[str]:
    files = sorted(path for path in folder.iterdir() if path.suffix == ".py" and path.name != "__init__.py")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py")))
    lines = [_line(path.name, path, depth) for path in files]
    for inner in folders:
        package = inner / "__init__.py"
        lines.append(_line(f"{inner.name}/", package, depth) if package.exists() else f"{'  ' * depth}{inner.name}/")
        lines += _lines(inner, depth + 1)
    return lines


def _line(name: str, path: Path, depth: int) -> str:
    words = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    first = re.split(r"(?<=[\w`)\]'])(?<!et al)\.(?: |$)", words, maxsplit=1)[0].rstrip(".")
    line = f"{'  ' * depth}{name:<{28 - 2 * depth}} {first}"
    return line if len(line) <= WIDTH else line[: WIDTH - 2].rsplit(" ", 1)[0] + " …"


def with_listing(readme: str, folder: Path) -> str:
    """The README with its list as it has to be."""
    return LIST.sub(lambda _: listing(folder), readme, count=1)


def main() -> None:
    """Write the lists."""
    for name, folder in ROOMS.items():
        path = ROOT / name
        path.write_text(with_listing(path.read_text(encoding="utf-8"), ROOT / folder), encoding="utf-8")


if __name__ == "__main__":
    main()
