"""The judge: a process of its own that holds the tests and calls the program. Runs inside the sandbox."""

import gc
import json
import os
import random
import socket
from collections.abc import Callable
from typing import Any

from calls import CallingSide, Wire, shown
from program import fresh_streams

READ = b"R"  # the judge has its tests: the clock may start


def run_judge(connection: socket.socket, writing: int, receive: Callable[[], Any]) -> None:
    """Read the tests, run them against the program, write the verdict. Never returns."""
    code = 1
    try:
        gc.enable()
        request = receive()
        silence = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(silence, descriptor)
        fresh_streams()
        os.write(writing, READ)
        os.write(writing, json.dumps(_judged(request, connection)).encode())
        code = 0
    except BaseException as error:  # noqa: BLE001 - an error of the judge is one of the sandbox
        os.write(writing, json.dumps({"status": "sandbox_error", "detail": shown(error)}).encode())
    finally:
        os._exit(code)


def _judged(request: dict[str, Any], connection: socket.socket) -> dict[str, str]:
    random.seed(0)
    caller = CallingSide(Wire(connection))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(request["setup"], "setup.py", "exec"), namespace)
        tests = compile(request["tests"], "tests.py", "exec")
    except BaseException as error:  # noqa: BLE001 - the benchmark's own text is broken
        return {"status": "sandbox_error", "detail": f"the task's own code fails: {shown(error)}"}
    for name in request["functions"]:
        namespace[name] = caller.function(name)
    try:
        caller.wait_until_ready()
        exec(tests, namespace)
    except BaseException as error:  # noqa: BLE001 - any error is a failed test
        return {"status": "failed", "detail": shown(error)}
    return {"status": "passed", "detail": ""}


def read_verdict(written: bytes) -> tuple[str, str]:
    """Status and detail as the judge wrote them."""
    try:
        verdict = json.loads(written)
        return str(verdict["status"]), str(verdict["detail"])
    except (ValueError, KeyError):
        return "failed", "the judge was killed by a limit"
