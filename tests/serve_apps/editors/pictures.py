"""Pictures of every editor with a suggestion and with attribution: ``python -m tests.serve_apps.editors.pictures``.

A terminal's screen is drawn by the browser from its characters and colours.
"""

import html
import re
import subprocess
import tempfile
from pathlib import Path

import serve_apps.editors
from tests.serve_apps.editors import test_emacs, test_jupyter, test_vim, test_vscode
from tests.serve_apps.editors.browsers import driven
from tests.serve_apps.editors.stub import stub
from tests.serve_apps.editors.terminal import Terminal, terminal

DOCS = Path(serve_apps.editors.__file__).parent / "docs"
MOST_BYTES = 150_000
PAGE = """<!doctype html><meta charset="utf-8"><style>body{margin:0;background:#1c1c1c;color:#d0d0d0}
pre{font:16px/20px "DejaVu Sans Mono",monospace;margin:12px}</style><pre>"""
COLOURS = ["#1c1c1c", "#d75f5f", "#87af87", "#d7af5f", "#5f87af", "#af87af", "#5fafaf", "#d0d0d0"]
COLOURS += ["#808080", "#ff8787", "#afd7af", "#ffd787", "#87afd7", "#d7afd7", "#87d7d7", "#ffffff"]


def main() -> None:
    """Take all of them."""
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        _browsers(Path(work))
        for name in ("vim", "neovim-current", "emacs"):
            _terminal(name, Path(work))
    for picture in sorted(DOCS.glob("*.png")):
        assert picture.stat().st_size < MOST_BYTES, f"{picture.name}: {picture.stat().st_size} bytes"
        print(picture.name, picture.stat().st_size)


def _browsers(work: Path) -> None:
    pictures = {"PICTURES": str(DOCS)}
    with stub(delay=0.01) as server:
        driven("vscode.mjs", server.url, str(test_vscode.extension(work / "vscode")), environment=pictures)
    lab = work / "lab"
    (lab / "work").mkdir(parents=True)
    (lab / "work" / "fib.py").write_text("def fib(n):\n")
    (lab / "work" / "nb.ipynb").write_text(test_jupyter.notebook("seed = 41", ""))
    with (
        stub(delay=0.01) as server,
        test_jupyter.jupyter_lab(lab, {**test_jupyter.installed(lab), "STARLOOM_URL": server.url}) as url,
    ):
        driven("jupyter.mjs", server.url, url, test_jupyter.TOKEN, environment=pictures)


def _terminal(name: str, work: Path) -> None:
    folder = work / name
    folder.mkdir()
    (folder / "quick.py").write_text("copied = " + test_vim.KNOWN + "\n\n\ndef fib(n):\n")
    with stub(delay=0.01) as server:
        if name == "emacs":
            command, attribution = test_emacs.command(folder, server.url), ("M-x", "starloom-attribution")
        else:
            command, attribution = test_vim.command(name, folder, server.url), ("Escape", ":StarloomAttribution")
        with terminal(f"{command} quick.py", folder, {"HOME": str(folder)}, columns=96, rows=14) as screen:
            screen.until("quicksort")
            screen.keys(attribution[0])
            screen.type(attribution[1])
            screen.keys("Enter")
            screen.until("(MIT)")
            screen.keys(*(["M->"] if name == "emacs" else ["Escape"]))
            screen.type("    " if name == "emacs" else "Go    ")
            screen.until("return fib(n - 1)")
            _draw(screen, DOCS / f"{name.removesuffix('-current')}.png")


def _draw(screen: Terminal, path: Path) -> None:
    """The screen as a picture."""
    rows = screen.screen(colours=True).rstrip().split("\n")
    with tempfile.TemporaryDirectory() as work:
        page = Path(work) / "screen.html"
        page.write_text(PAGE + "\n".join(map(_coloured, rows)), encoding="utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={work}/profile"]
        size = f"--window-size=980,{24 + 20 * len(rows)}"
        subprocess.run([*command, size, f"--screenshot={path}", page.as_uri()], check=True, capture_output=True)


def _coloured(line: str) -> str:
    """A line with the terminal's escapes as HTML."""
    out, style = [], {}
    for part in re.split(r"(\x1b\[[\d;]*m)", line):
        if not part.startswith("\x1b["):
            text = html.escape(part)
            out.append(
                f'<span style="{";".join(f"{k}:{v}" for k, v in style.items())}">{text}</span>' if style else text
            )
            continue
        codes = [int(code or 0) for code in part[2:-1].split(";")]
        while codes:
            _take(codes, style)
    return "".join(out)


def _take(codes: list[int], style: dict[str, str]) -> None:
    """One attribute of a terminal's text."""
    code = codes.pop(0)
    if code == 0:
        style.clear()
    elif code in (38, 48) and codes[:1] == [2]:
        style["color" if code == 38 else "background"] = f"rgb({codes[1]},{codes[2]},{codes[3]})"
        del codes[:4]
    elif code in (38, 48) and codes[:1] == [5]:
        number = codes[1]
        del codes[:2]
        style["color" if code == 38 else "background"] = _of_256(number)
    elif 30 <= code < 38 or 90 <= code < 98:
        style["color"] = COLOURS[code - 30 if code < 38 else code - 82]
    elif 40 <= code < 48:
        style["background"] = COLOURS[code - 40]
    elif code in (1, 3, 4, 7):
        name, value = {1: ("font-weight", "bold"), 3: ("font-style", "italic"), 4: ("text-decoration", "underline"),
                       7: ("filter", "invert(1)")}[code]  # fmt: skip
        style[name] = value


def _of_256(number: int) -> str:
    if number < 16:
        return COLOURS[number]
    if number >= 232:
        return f"rgb({8 + 10 * (number - 232)},{8 + 10 * (number - 232)},{8 + 10 * (number - 232)})"
    steps = [0, 95, 135, 175, 215, 255]
    cube = number - 16
    return f"rgb({steps[cube // 36]},{steps[cube // 6 % 6]},{steps[cube % 6]})"


if __name__ == "__main__":
    main()
