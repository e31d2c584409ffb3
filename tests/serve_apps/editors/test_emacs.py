"""The plugin of Emacs in the real editor, as a person sees it."""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import serve_apps.editors
from tests.patience import PATIENCE
from tests.serve_apps.editors.stub import KNOWN, Stub, stub
from tests.serve_apps.editors.terminal import Terminal, needed, terminal

PLUGIN = Path(serve_apps.editors.__file__).parent / "emacs" / "starloom.el"
SETTINGS = """(setq inhibit-startup-screen t make-backup-files nil auto-save-default nil create-lockfiles nil
      python-indent-guess-indent-offset nil auth-sources '("{folder}/authinfo")
      starloom-url "{url}" starloom-delay 0.02)
(load "{plugin}")
(add-hook 'prog-mode-hook #'starloom-mode)
(setq-default indent-tabs-mode nil)
(electric-indent-mode -1)
(menu-bar-mode -1)
"""
HELPER = '"""Helpers that other files use."""\n\n\ndef quick(items, pivot):\n    return ' + KNOWN + "\n"


@dataclass
class Session:
    """An Emacs, its folder, and the server that it speaks to."""

    screen: Terminal
    folder: Path
    server: Stub

    def edit(self, name: str, text: str = "") -> None:
        """Open a new file, with point at its end."""
        (self.folder / name).write_text(text)
        self.run(f'(progn (find-file "{name}") (revert-buffer t t) (goto-char (point-max)) (message "at it"))')
        self.screen.until("at it")

    def run(self, form: str) -> None:
        """Evaluate a form, as M-: does."""
        self.screen.keys("M-:")
        self.screen.until("Eval:")
        self.screen.type(form)
        self.screen.keys("Enter")
        self.screen.until("Eval:", gone=True)

    def saved(self, name: str) -> str:
        """The file's text after it was written."""
        before = (self.folder / name).stat().st_mtime_ns
        self.screen.keys("C-x", "C-s")
        end = time.monotonic() + PATIENCE
        while (self.folder / name).stat().st_mtime_ns == before:
            assert time.monotonic() < end, self.screen.screen()
            time.sleep(0.01)
        time.sleep(0.02)
        return (self.folder / name).read_text()


def command(folder: Path, url: str) -> str:
    """The command that starts Emacs with the plugin; the test is skipped without it."""
    needed("emacs", "tmux")
    (folder / "init.el").write_text(SETTINGS.format(folder=folder, url=url, plugin=PLUGIN))
    return f"emacs -nw -Q -l {folder}/init.el"


@pytest.fixture(scope="module")
def editor_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One editor for all tests of this file."""
    folder = tmp_path_factory.mktemp("emacs")
    (folder / "util.py").write_text(HELPER)
    with (
        stub(delay=0.01) as server,
        terminal(f"{command(folder, server.url)} util.py", folder, {"HOME": str(folder)}) as screen,
    ):
        screen.until("quicksort")
        yield Session(screen, folder, server)


@pytest.fixture
def session(editor_session: Session) -> Session:
    """The same, with a server that is well."""
    editor_session.server.refusal = None
    return editor_session


def test_compiles_without_a_warning(tmp_path: Path) -> None:
    needed("emacs")
    copy = tmp_path / "starloom.el"
    copy.write_bytes(PLUGIN.read_bytes())
    line = [
        "emacs",
        "-Q",
        "--batch",
        "--eval",
        "(setq byte-compile-error-on-warn t)",
        "-f",
        "batch-byte-compile",
        str(copy),
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ghost_is_shown_and_taken_whole(session: Session) -> None:
    session.edit("fib.py", "def fib(n):\n")
    session.screen.type("    ")
    shown = session.screen.until("return fib(n - 1) + fib(n - 2)")
    assert "    if n < 2:\n        return n\n    return fib(n - 1)" in shown
    session.screen.keys("Tab")
    session.screen.type("#")
    session.screen.until("fib(n - 2)#")
    assert (
        session.saved("fib.py") == "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)#\n"
    )


def test_words_and_lines_are_taken_one_by_one(session: Session) -> None:
    session.edit("words.py", "def fib(n):\n")
    session.screen.type("    ")
    session.screen.until("return fib")
    session.screen.keys("C-Right")
    session.screen.settled()
    session.screen.keys("M-Enter")
    session.screen.settled()
    session.screen.keys("M-Enter")
    session.screen.settled()
    session.screen.keys("C-g")
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
    session.edit("tab.py", "if True:\n")
    session.screen.keys("Tab")
    session.screen.type("y")
    assert session.saved("tab.py") == "if True:\n    y\n"


def test_what_stands_behind_the_cursor_is_not_repeated(session: Session) -> None:
    session.edit("behind.py", "print()")
    session.screen.keys("Left")
    session.screen.keys("M-\\")
    session.screen.until("print(add(1, 2))")
    session.screen.keys("Tab")
    assert session.saved("behind.py") == "print(add(1, 2))\n"


def test_wide_characters_are_text_both_ways(session: Session) -> None:
    session.edit("größe.py")
    session.screen.type("größe = ")
    session.screen.until("größe = 'naïve ☃'")
    session.screen.keys("Tab")
    assert session.saved("größe.py") == "größe = 'naïve ☃'\n"
    assert session.server.asked()[-1]["body"]["prompt"] == "größe = "


def test_other_files_are_sent_and_secrets_never(session: Session) -> None:
    session.edit(".env", "PASSWORD=" + "s3cret " * 20)
    session.run("(progn (python-mode) (starloom-mode 1))")
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
    assert session.server.asked()[-1]["client"] == "emacs/0.1.0"


def test_raw_bytes_in_a_file_are_no_error(session: Session) -> None:
    session.edit("raw.py")
    (session.folder / "raw.py").write_bytes(b"# \xff\xfe caf\xc3\xa9\n")
    session.run('(progn (revert-buffer t t) (goto-char (point-max)) (message "read it"))')
    session.screen.until("read it")
    session.screen.type("x = [")
    session.screen.until("1, 2, 3]")
    assert session.server.asked()[-1]["body"]["prompt"].endswith("\nx = [")


def test_accepted_copy_is_told_with_its_licence_and_so_is_a_file(session: Session) -> None:
    session.edit("copy.py")
    session.screen.type("copied = ")
    session.screen.until("quicksort")
    session.screen.keys("Tab")
    session.screen.until("example/algorithms sort/quick.py, lines 12-12 (MIT)")
    session.edit("util2.py", HELPER)
    session.screen.keys("M-x")
    session.screen.type("starloom-attribution")
    session.screen.keys("Enter")
    session.screen.until("(MIT)")
    session.screen.keys("M-x")
    session.screen.type("starloom-attributions")
    session.screen.keys("Enter")
    session.screen.until("5: in the training data: example/algorithms")
    session.run("(delete-other-windows)")


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ((401, '{"error": {"message": "the API key is missing"}}', {"WWW-Authenticate": "Bearer"}), "401 the API key"),
        ((429, '{"error": {"message": "slow down"}}', {"Retry-After": "1"}), "429 slow down"),
        ((500, '{"error": {"message": "it broke"}}', {}), "500 it broke"),
        ((502, "<html>Bad Gateway", {"kind": "text/html"}), "502 no JSON"),
    ],
)
def test_refusal_is_one_mark_in_the_mode_line_and_typing_goes_on(
    session: Session, refusal: tuple[int, str, dict[str, str]], told: str
) -> None:
    session.server.refusal = refusal
    session.edit(f"refused{refusal[0]}.py")
    session.screen.type(f"n{refusal[0]} = [")
    session.screen.until("Starloom!")
    session.screen.type("1]")
    assert session.saved(f"refused{refusal[0]}.py") == f"n{refusal[0]} = [1]\n"
    session.run("(message starloom--problem)")
    session.screen.until(told)
    session.server.refusal = None
    session.screen.keys("M-x")
    session.screen.type("starloom-health")
    session.screen.keys("Enter")
    session.screen.until("stub (a window of 2048 tokens, fills gaps: yes, attribution: yes)")


def test_dead_server_and_a_key_of_authinfo(tmp_path: Path) -> None:
    (tmp_path / "authinfo").write_text("machine 127.0.0.1 login starloom password k3y\n")
    with (
        stub(key="k3y") as server,
        terminal(f"{command(tmp_path, server.url)} a.py", tmp_path, {"HOME": str(tmp_path)}) as screen,
    ):
        screen.until("Starloom")
        screen.type("x = [")
        screen.until("x = [1, 2, 3]")
        screen.keys("Tab", "M-:")
        screen.type('(setq starloom-url "http://127.0.0.1:9")')
        screen.keys("Enter", "Enter")
        screen.type("print(")
        screen.until("Starloom!")
