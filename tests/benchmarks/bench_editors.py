"""The editors' plugins: from a key to ghost text, stale requests, requests while a suggestion is typed, sizes.

`make bench-editors`. The server is a stub that answers at once; what is told is beyond its time and the debounce. For
editors in a terminal the key goes through tmux and the screen is read back from it, which is in the figure.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import serve_apps.editors
from tests.benchmarks.harness import finish, table
from tests.serve_apps.editors import test_emacs, test_jupyter, test_vim, test_vscode
from tests.serve_apps.editors.browsers import driven
from tests.serve_apps.editors.stub import Stub, stub
from tests.serve_apps.editors.terminal import Terminal, terminal

TIMES = 20
DEBOUNCE = {
    "vim": 20,
    "neovim-current": 20,
    "emacs": 20,
    "vscode": 75,
    "jupyter": 75,
}  # milliseconds, as the tests set it
SOURCES = {
    "core_and_vscode": ("core/core.js", "vscode/*.js"),
    "jupyter": ("jupyter/labextension/plugin.js", "jupyter/starloom_jupyter/*.py"),
    "vim": ("vim/**/*.vim",),
    "emacs": ("emacs/*.el",),
}
COMMENTS = ("//", '"', ";", "#", "/**", "*")


def main() -> None:
    """Measure and tell."""
    with tempfile.TemporaryDirectory() as work:
        found = {name: in_terminal(name, Path(work)) for name in ("vim", "neovim-current", "emacs")}
        found |= {"vscode": in_vscode(Path(work)), "jupyter": in_jupyter(Path(work))}
    figures: dict[str, float] = {}
    rows = []
    for name, (seconds, stale, asked) in found.items():
        beyond = 1000 * statistics.median(seconds) - DEBOUNCE[name]
        rows.append([name, f"{beyond:.0f}", stale, asked])
        figures |= {f"{name}_beyond_ms": beyond, f"{name}_stale": stale, f"{name}_typing_through": asked}
    sizes = {name: lines(patterns) for name, patterns in SOURCES.items()}
    print(table("milliseconds", ["editor", "key to ghost text", "stale after ten keys", "asked while typing"], rows))
    print(table("lines", ["plugin", "code"], [[name, count] for name, count in sizes.items()]))
    finish("editors", figures | {f"{name}_lines": count for name, count in sizes.items()}, packages=("httpx",))


def lines(patterns: tuple[str, ...]) -> int:
    """Lines of code: neither blank nor comments."""
    folder = Path(serve_apps.editors.__file__).parent
    texts = [path.read_text(encoding="utf-8") for pattern in patterns for path in folder.glob(pattern)]
    every = [line.strip() for text in texts for line in text.splitlines()]
    return sum(bool(line) and not line.startswith(COMMENTS) for line in every)


Found = tuple[
    list[float], int, int
]  # seconds from key to ghost text, requests left at the server, requests while typing


def in_terminal(name: str, work: Path) -> Found:
    """Vim, Neovim or Emacs."""
    folder = work / name
    folder.mkdir()
    (folder / "a.py").write_text("")
    with stub() as server:
        make = test_emacs.command if name == "emacs" else None
        command = make(folder, server.url) if make else test_vim.command(name, folder, server.url)
        with terminal(f"{command} a.py", folder, {"HOME": str(folder)}, rows=60) as screen:
            screen.until("Starloom")
            if name != "emacs":
                screen.type("i")
                screen.until("INSERT")
            dismiss = ("C-g",) if name == "emacs" else ("C-]",)
            seconds = []
            for number in range(TIMES):
                screen.type(f"n{number} = 1")
                screen.keys("Enter")
                screen.type("x = ")
                screen.settled(0.15)
                began = time.monotonic()
                screen.type("[")
                screen.until("1, 2, 3]")
                seconds.append(time.monotonic() - began)
                screen.keys(*dismiss)
                screen.until("1, 2, 3]", gone=True)
                screen.keys("Enter")
            stale = _stale(screen, server)
            screen.keys("Enter")
            screen.type("x = [")
            screen.until("1, 2, 3]")
            before = len(server.asked())
            screen.type("1, 2", delay=0.1)
            time.sleep(0.5)
            return seconds, stale, len(server.asked()) - before


def _stale(screen: Terminal, server: Stub) -> int:
    """Requests that the server still works on after ten fast keys."""
    for _ in range(10):
        screen.type("slow = ")
        time.sleep(0.05)
    screen.type("z")
    time.sleep(0.5)
    return sum("answered" not in one and not one.get("cancelled") for one in server.asked())


def in_vscode(work: Path) -> Found:
    """VS Code's workbench in a browser."""
    with stub() as server:
        told = driven("vscode.mjs", server.url, str(test_vscode.extension(work / "vscode")), "latency")
    return _found(told)


def in_jupyter(work: Path) -> Found:
    """JupyterLab."""
    folder = work / "jupyter"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "fib.py").write_text("")
    with stub() as server:
        environment = {**test_jupyter.installed(folder), "STARLOOM_URL": server.url}
        with test_jupyter.jupyter_lab(folder, environment) as url:
            told = driven("jupyter.mjs", server.url, url, test_jupyter.TOKEN, "latency")
    return _found(told)


def _found(told: list[str]) -> Found:
    (line,) = told
    delays, stale, asked = json.loads(line[line.index("(") + 1 : line.rindex(")")])
    return [one / 1000 for one in delays], stale, asked


if __name__ == "__main__":
    main()
