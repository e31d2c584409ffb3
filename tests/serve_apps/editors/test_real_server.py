"""Each plugin against the real server with a tiny model and a real index: what it writes is shown, taken and found."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from serve_apps.api.gate import GateConfig
from serve_apps.engine.engine import LocalEngine
from serve_apps.engine.pieces import Piece, Scores
from tests.indexes import write_index
from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running, running
from tests.serve_apps.editors import test_emacs, test_jupyter, test_vim, test_vscode
from tests.serve_apps.editors.browsers import driven, needed
from tests.serve_apps.editors.terminal import Terminal, terminal

pytestmark = pytest.mark.slow
STEP_SECONDS = 0.02
START = "# begin\nx = "  # as the editors hold it when they ask


def _answer(url: str, name: str) -> str:
    """What the server answers to an editor whose file holds START, on one line and without blanks at its end."""
    body = {"prompt": START, "suffix": "", "max_tokens": 96, "temperature": 0, "max_lines": 8, "filepath": name}
    answer = httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]["text"]
    return str(answer).rstrip()


@pytest.fixture(scope="module")
def server(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose index holds what its model writes."""
    with running(small, GateConfig(), None, {}) as before:
        texts = {name: _answer(before.url, name) for name in ("real.py", "Untitled-1")}
    files = [("ann/own", name, ["MIT"], f"# another\n{START}{text}\n# end\n") for name, text in texts.items()]
    index = write_index(tmp_path_factory.mktemp("index"), [files])
    gate = GateConfig(allow_origins=("*",))
    with running(small, gate, None, {}, index=index) as made:
        _take_time(made.engine)
        yield made


def _take_time(engine: LocalEngine) -> None:
    """Let steps take as long as those of a model that people serve: a tiny one has answered before a key is pressed."""
    forward = engine._runner.forward

    def later(pieces: Sequence[Piece]) -> Scores:
        time.sleep(STEP_SECONDS)
        return forward(pieces)

    engine._runner.forward = later  # type: ignore[method-assign]


def _cancelled(url: str) -> float:
    lines = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith("starloom:cancelled")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if "_total" in line)


def _first_line(text: str) -> str:
    return text.split("\n")[0]


@pytest.mark.parametrize("editor", ["vim", "neovim-current", "emacs"])
def test_in_a_terminal(editor: str, server: Running, tmp_path: Path) -> None:
    expected = _answer(server.url, "real.py")
    assert len(expected) > 60
    (tmp_path / "real.py").write_text("# begin\n")
    if editor == "emacs":
        command = test_emacs.command(tmp_path, server.url)
    else:
        command = test_vim.command(editor, tmp_path, server.url)
    with terminal(f"{command} real.py", tmp_path, {"HOME": str(tmp_path)}, columns=180) as screen:
        screen.until("# begin")
        screen.keys(*(["M->"] if editor == "emacs" else ["o"]))
        screen.type("x = ")
        screen.until(f"x = {_first_line(expected)}"[:60])
        screen.keys("Tab")
        screen.until("ann/own real.py")
        assert "(MIT)" in screen.screen()
        _hang_up(screen, server.url)
        screen.keys(*(["C-x", "C-s"] if editor == "emacs" else ["Escape", ":write", "Enter"]))
        end = time.monotonic() + PATIENCE
        # a file's coding may not keep what a tiny model makes of bytes
        while expected[:20] not in (tmp_path / "real.py").read_text(errors="replace"):
            assert time.monotonic() < end, (tmp_path / "real.py").read_text()
            time.sleep(0.05)


def _hang_up(screen: Terminal, url: str) -> None:
    """Type on until an answer has come too late, which the server counts."""
    before, end = _cancelled(url), time.monotonic() + PATIENCE
    while _cancelled(url) == before:
        assert time.monotonic() < end, "the server has never been told"
        screen.type("\ty = 1 + ", delay=0.03)


def test_in_vscode(server: Running, tmp_path: Path) -> None:
    needed()
    expected = {"start": START, "text": _answer(server.url, "real.py"), "file": "ann/own real.py"}
    steps = driven("vscode.mjs", server.url, str(test_vscode.extension(tmp_path)), json.dumps(expected))
    assert len(steps) == 2


def test_in_jupyterlab(server: Running, tmp_path: Path) -> None:
    needed()
    if not (test_jupyter.BIN / "jupyter-lab").exists():
        pytest.skip("jupyterlab: not installed; make clients does it")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "real.py").write_text("# begin\n")
    expected = {"start": START, "text": _answer(server.url, "real.py"), "file": "ann/own real.py"}
    environment = {**test_jupyter.installed(tmp_path), "STARLOOM_URL": server.url}
    with test_jupyter.jupyter_lab(tmp_path, environment) as url:
        steps = driven("jupyter.mjs", server.url, url, test_jupyter.TOKEN, json.dumps(expected))
    assert len(steps) == 2
