"""The warm interpreter inside the sandbox: forks a cell for each program and a judge for each set of tests.

Runs as a script inside bubblewrap on the standard library alone, with requests on descriptor 0 and answers on 1: four
bytes of length and JSON each. A request for tests is two messages; the second, with the tests, is read by the judge
itself, so that they are never in memory that a program is forked from.
"""

import atexit
import contextlib
import io
import json
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100,PTH120 - a script without its package

from calls import Callee, Caller, Wire, _shown
from cell import CellLimits, become_subreaper, open_cell

WARM = (
    "bisect collections copy datetime decimal fractions functools hashlib heapq itertools math operator re statistics"
)
TICK_SECONDS = 0.05
EXECUTION_FAILED = 1
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Answer requests until the other end closes."""
    become_subreaper()
    for name in WARM.split():
        __import__(name)
    _send(1, {"ready": os.getpid()})
    while (request := _receive(0)) is not None:
        _send(1, _answer(request))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    run = Run(request)
    try:
        run.start()
        return run.supervise()
    except OSError as error:
        return {"status": "sandbox_error", "detail": str(error)}
    finally:
        run.end()


@dataclass
class Captured:
    """The first bytes of an output; the rest is read and thrown away."""

    descriptor: int
    limit: int
    kept: bytearray = field(default_factory=bytearray)
    total: int = 0

    def drain(self) -> bool:
        """Read what is there; False at the end."""
        try:
            part = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return True
        self.total += len(part)
        self.kept += part[: max(0, self.limit - len(self.kept))]
        return bool(part)


class Run:
    """A program, perhaps its judge, and the limits on both."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.limits = CellLimits(**request["cell"])
        self.judged = bool(request.get("judged"))
        self.outputs: dict[int, tuple[str, Captured]] = {}
        self.captured: dict[str, Captured] = {}
        self.verdict = Captured(-1, 1 << 16)
        self.processes: dict[int, str] = {}
        self.exit_code: int | None = None
        self.used = Used()
        self.started = time.monotonic()
        self.own_processes = set(_process_ids())

    def start(self) -> None:
        """Start the program's cell, then the judge."""
        ends = [os.pipe() for _ in range(2)]
        program_end, judge_end = socket.socketpair()
        stdin = self._stdin()
        keep = {stdin: 0, ends[0][1]: 1, ends[1][1]: 2}
        if self.judged:
            keep[program_end.fileno()] = 3
        try:
            first = open_cell(self.limits, keep, _program(self.request))
            self.processes[first] = "program"
        finally:
            for descriptor in (stdin, ends[0][1], ends[1][1]):
                os.close(descriptor)
            program_end.close()
        for name, (reading, _) in zip(("stdout", "stderr"), ends, strict=True):
            self._capture(name, reading, self.request["output_bytes"])
        if self.judged:
            self._start_judge(judge_end)
        judge_end.close()

    def _stdin(self) -> int:
        text = self.request.get("stdin") or ""
        if not text:
            return os.open("/dev/null", os.O_RDONLY)
        descriptor = os.memfd_create("stdin")
        os.write(descriptor, text.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def _capture(self, name: str, descriptor: int, limit: int) -> None:
        os.set_blocking(descriptor, False)
        self.captured[name] = Captured(descriptor, limit)
        self.outputs[descriptor] = (name, self.captured[name])

    def _start_judge(self, wire: socket.socket) -> None:
        reading, writing = os.pipe()
        judge = os.fork()
        if judge == 0:
            os.close(reading)
            _judge(wire, writing)
        os.close(writing)
        self.processes[judge] = "judge"
        os.read(reading, 1)  # the judge has read the tests: the clock starts
        self._capture("verdict", reading, 1 << 16)
        self.started = time.monotonic()

    def supervise(self) -> dict[str, Any]:
        """Wait for the end or for a limit; the answer without what `end` does."""
        status = None
        while status is None:
            ready, _, _ = select.select(list(self.outputs), [], [], TICK_SECONDS)
            for descriptor in ready:
                if not self.outputs[descriptor][1].drain():
                    del self.outputs[descriptor]
            if self._ended():
                break
            if not ready or time.monotonic() - self.used.measured > TICK_SECONDS:
                status = self._exceeded()
        self.stop()
        for _, captured in self.outputs.values():
            while captured.total < captured.limit and select.select([captured.descriptor], [], [], 0)[0]:
                if not captured.drain():
                    break
        return self._result(status)

    def _ended(self) -> bool:
        """Whether the judge (or the program without one) is done."""
        awaited = "judge" if self.judged else "program"
        for process in [p for p, role in self.processes.items() if role == awaited]:
            if self._wait(process, os.WNOHANG):
                return True
        return False

    def _wait(self, process: int, options: int) -> bool:
        found, status, usage = os.wait4(process, options)
        if found == 0:
            return False
        self.used.reaped_seconds += usage.ru_utime + usage.ru_stime
        self.used.peak_megabytes = max(self.used.peak_megabytes, usage.ru_maxrss / 1024)
        if self.processes.pop(process) == "program":
            self.exit_code = os.waitstatus_to_exitcode(status)
        return True

    def _exceeded(self) -> str | None:
        self.used.measure(self.own_processes)
        if self.used.seconds > self.limits.cpu_seconds:
            return "timeout"
        if time.monotonic() - self.started > self.request["wall_seconds"]:
            return "timeout"
        if self.used.megabytes > self.request["memory_megabytes"]:
            return "memory"
        if self.used.count > self.limits.processes + 2:
            return "failed"
        return None

    def stop(self) -> None:
        """Kill what is left and wait for all of it."""
        for process in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in list(self.processes):
            self._wait(process, 0)

    def end(self) -> None:
        """Leave neither a process nor a descriptor."""
        self.stop()
        for captured in self.captured.values():
            os.close(captured.descriptor)

    def _result(self, status: str | None) -> dict[str, Any]:
        verdict = self.captured.get("verdict")
        detail = ""
        if status is None and self.judged and verdict is not None:
            status, detail = _read_verdict(bytes(verdict.kept))
        elif status is None:
            status = "passed" if self.exit_code == 0 else "failed"
        if status == "failed" and self.exit_code == 125 and b"sandbox: " in self.captured["stderr"].kept:
            status = "sandbox_error"
        return {
            "status": status,
            "detail": detail,
            "exit_code": self.exit_code,
            "stdout": self.captured["stdout"].kept.decode(errors="replace"),
            "stderr": self.captured["stderr"].kept.decode(errors="replace"),
            "cpu_seconds": round(max(self.used.reaped_seconds, self.used.seconds), 3),
            "wall_seconds": round(time.monotonic() - self.started, 3),
            "peak_megabytes": round(self.used.peak_megabytes, 1),
        }


@dataclass
class Used:
    """CPU and memory of a run's processes, the judge's included."""

    seconds: float = 0.0
    reaped_seconds: float = 0.0
    megabytes: float = 0.0
    peak_megabytes: float = 0.0
    count: int = 0
    measured: float = field(default_factory=time.monotonic)

    def measure(self, own: set[int]) -> None:
        """Sum over all processes that were not there before the run."""
        seconds, pages, count = 0.0, 0, 0
        for process in _process_ids():
            if process in own:
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{process}/stat", "rb") as file:
                    values = file.read().rpartition(b")")[2].split()
                # user, system, and the same of children that were waited for
                seconds += sum(int(v) for v in values[11:15]) / CLOCK_TICKS
                pages += int(values[21])
                count += 1
        self.seconds = max(self.seconds, seconds)
        self.megabytes = pages * PAGE_BYTES / (1 << 20)
        self.peak_megabytes = max(self.peak_megabytes, self.megabytes)
        self.count = count
        self.measured = time.monotonic()


def _process_ids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names, often


def _program(request: dict[str, Any]) -> Callable[[], int]:
    """What runs in the cell: Python source in this interpreter, or a command."""

    def run_source() -> int:
        _fresh_streams()
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        sys.argv = ["program.py"]
        sys.path[:] = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100,PTH120
        random.seed(0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not request.get("judged"):
            try:
                exec(compile(request["source"], "program.py", "exec"), module.__dict__)
            finally:  # as an interpreter ends
                threading._shutdown()  # type: ignore[attr-defined]
                atexit._run_exitfuncs()
            return 0
        wire = Wire(socket.socket(fileno=3))
        try:
            exec(compile(request["source"], "program.py", "exec"), module.__dict__)
        except BaseException as error:  # noqa: BLE001 - reported to the judge
            wire.send(["failed", _shown(error)])
            return EXECUTION_FAILED
        Callee(wire, module.__dict__).serve()
        return 0

    return run_source


def _fresh_streams() -> None:
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8", errors="backslashreplace"
    )
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )


def _judge(connection: socket.socket, writing: int) -> None:
    """The judge's process: reads the tests, runs them against the program, writes the verdict. Never returns."""
    code = 1
    try:
        request = _receive(0)
        silence = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(silence, descriptor)
        _fresh_streams()
        os.write(writing, b"R")
        os.write(writing, json.dumps(_judged(request or {}, connection)).encode())
        code = 0
    except BaseException as error:  # noqa: BLE001 - an error of the judge is one of the sandbox
        os.write(writing, json.dumps({"status": "sandbox_error", "detail": _shown(error)}).encode())
    finally:
        os._exit(code)


def _judged(request: dict[str, Any], connection: socket.socket) -> dict[str, str]:
    random.seed(0)
    caller = Caller(Wire(connection))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(request["setup"], "setup.py", "exec"), namespace)
        tests = compile(request["tests"], "tests.py", "exec")
    except BaseException as error:  # noqa: BLE001 - the benchmark's own text is broken
        return {"status": "sandbox_error", "detail": f"the task's own code fails: {_shown(error)}"}
    for name in request["functions"]:
        namespace[name] = caller.function(name)
    try:
        caller.wait_until_ready()
        exec(tests, namespace)
    except BaseException as error:  # noqa: BLE001 - any error is a failed test
        return {"status": "failed", "detail": _shown(error)}
    return {"status": "passed", "detail": ""}


def _read_verdict(written: bytes) -> tuple[str, str]:
    try:
        verdict = json.loads(written)
        return str(verdict["status"]), str(verdict["detail"])
    except (ValueError, KeyError):
        return "failed", "the judge was killed by a limit"


def _send(descriptor: int, message: Any) -> None:
    body = json.dumps(message).encode()
    data = memoryview(len(body).to_bytes(4, "little") + body)
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(descriptor: int) -> Any:
    """The next message, or None at the end."""
    header = _exactly(descriptor, 4)
    if header is None:
        return None
    body = _exactly(descriptor, int.from_bytes(header, "little"))
    return None if body is None else json.loads(body)


def _exactly(descriptor: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
