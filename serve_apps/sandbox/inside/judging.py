"""The judge: a process of its own that holds the tests and calls the program. Runs inside the sandbox."""

import gc
import json
import os
import random
import socket
from typing import Any

from peer import Peer, ProgramError
from program import fresh_streams, read_text
from wire import Wire, shown

WIRE, TESTS, VERDICT, READ = 3, 4, 5, 6  # descriptors in the judge's cell


def judge() -> int:
    """Read the tests, run them against the program, write the verdict."""
    gc.enable()
    request = read_text(TESTS)
    fresh_streams()
    os.write(READ, b"R")  # the clock may start
    os.close(READ)
    status, detail = _judged(request, Wire(socket.socket(fileno=WIRE)))
    os.write(VERDICT, json.dumps({"status": status, "detail": detail}).encode())
    return 0


def _judged(request: dict[str, Any], wire: Wire) -> tuple[str, str]:
    """The tests run as if they stood below the program: its names first, then the set-up, then the tests."""
    random.seed(0)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        setup = compile(request["setup"], "setup.py", "exec")
        tests = compile(request["tests"], "tests.py", "exec")
    except BaseException as error:  # noqa: BLE001 - the benchmark's own text is broken
        return "invalid", f"the task's own code fails: {shown(error)}"
    names = request["functions"]
    peer = Peer(wire, guarded=True, names=names)
    try:
        _wait_until_ready(wire)
        namespace.update(peer.ask("names", None, names))
    except BaseException as error:  # noqa: BLE001 - a program without an end or a beginning
        return "failed", shown(error)
    try:
        exec(setup, namespace)
    except BaseException as error:  # noqa: BLE001 - the program's fault, or the benchmark's
        if _blames_program(error, names):
            return "failed", shown(error)
        return "invalid", f"the task's own code fails: {shown(error)}"
    try:
        exec(tests, namespace)
    except ImportError as error:
        if _blames_program(error, names):
            return "failed", shown(error)
        return "invalid", f"the tests need what is not installed: {shown(error)}"
    except BaseException as error:  # noqa: BLE001 - any error is a failed test
        return "failed", shown(error)
    return "passed", ""


def _wait_until_ready(wire: Wire) -> None:
    """Wait until the program has run to its end; `ProgramError` when it failed."""
    try:
        message = wire.receive()
    except (EOFError, ValueError, RecursionError, OSError) as error:
        raise ProgramError(str(error)) from None
    match message:
        case ["ready"]:
            return
        case ["failed", str(told)]:
            raise ProgramError(told)
    raise ProgramError("the program sent something that is no answer")


def _blames_program(error: BaseException, names: list[str]) -> bool:
    """Whether an error comes from the tested code: it was raised there, or a name that is wanted of it is missing."""
    missing = isinstance(error, NameError) and error.name in names
    return missing or isinstance(error, ProgramError) or bool(getattr(error, "_from_program", False))
