"""The warm interpreter inside the sandbox: forks a cell for each program and a judge for each set of tests.

Runs as a script inside bubblewrap on the standard library alone, with requests on descriptor 0 and answers on 1: four
bytes of length and JSON each. A request for tests is two messages; the second, with the tests, is read by the judge
itself, so that they are never in memory that a program is forked from.
"""

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100,PTH120 - a script without its package

from cell import become_subreaper, open_cell
from judging import read_verdict, run_judge
from limits import CellLimits
from program import BUILD_FAILED, BUILT, program
from syscalls import filter_program
from usage import Usage, descendants

WARM = (
    "bisect collections copy datetime decimal fractions functools hashlib heapq itertools math operator re statistics"
)
TICK_SECONDS = 0.05
COLLECT_EVERY = 32
MOST_STDIN_BYTES = 64 << 20
LAST_BYTES = 8192  # a seal stands here, with what a test runner says after it
UNSEALED = "the program ended before its tests did"


def main() -> None:
    """Answer requests until the other end closes."""
    become_subreaper()
    for name in [*WARM.split(), "string", "typing", "random", "threading"]:
        __import__(name)
    filter_program()
    gc.disable()  # a collection would touch, and so copy, every page that a fork shares with this process
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # programs are short: the usual 700 makes them collect hundreds of times
    _send(1, {"ready": os.getpid()})
    answered = 0
    while (request := _receive(0)) is not None:
        _send(1, _answer(request))
        answered += 1
        if answered % COLLECT_EVERY == 0:
            gc.collect()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    run = Run(request)
    try:
        run.start()
        return run.supervise()
    except OSError as error:
        if request.get("judged") and "judge" not in run.started_roles:
            _receive(0)  # the tests that nobody has read
        return {"status": "sandbox_error", "detail": str(error)}
    finally:
        run.end()


@dataclass
class Captured:
    """The first bytes of an output, and its last ones; the rest is read and thrown away."""

    descriptor: int
    limit: int
    kept: bytearray = field(default_factory=bytearray)
    last: bytes = b""

    def drain(self) -> bool:
        """Read what is there; False at the end."""
        try:
            part = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return True
        self.kept += part[: max(0, self.limit - len(self.kept))]
        self.last = (self.last + part)[-LAST_BYTES:]
        return bool(part)


class Run:
    """A program, perhaps its judge, and the limits on both."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        limits = dict(request["cell"])
        if not limits["isolated"]:
            limits["folder"] = tempfile.mkdtemp(prefix="program-")
        self.limits = CellLimits(**limits)
        self.judged = bool(request.get("judged"))
        self.building = "run" in request
        self.open: dict[int, str] = {}
        self.captured: dict[str, Captured] = {}
        self.processes: dict[int, str] = {}
        self.started_roles: set[str] = set()
        self.exit_code: int | None = None
        self.used = Usage()
        self.started = time.monotonic()

    def start(self) -> None:
        """Start the program's cell, then the judge."""
        pipes = {name: os.pipe() for name in ("stdout", "stderr", "phase")}
        ours, theirs = socket.socketpair()
        stdin = self._stdin()
        keep = {stdin: 0, pipes["stdout"][1]: 1, pipes["stderr"][1]: 2}
        keep[theirs.fileno() if self.judged else pipes["phase"][1]] = 3
        for name, (reading, _) in pipes.items():
            self._capture(name, reading, self.request["output_bytes"])
        try:
            self._add(open_cell(self.limits, keep, program(self.request), alone=self.judged), "program")
            if self.judged:
                theirs.close()
                self._start_judge(ours)
        finally:
            for descriptor in (stdin, *(writing for _, writing in pipes.values())):
                os.close(descriptor)
            ours.close()
            theirs.close()
        self.started = time.monotonic()

    def _add(self, process: int, role: str) -> None:
        self.processes[process] = role
        self.started_roles.add(role)

    def _stdin(self) -> int:
        descriptor = os.memfd_create("stdin")
        with open(descriptor, "wb", closefd=False) as file:
            file.write((self.request.get("stdin") or "").encode()[:MOST_STDIN_BYTES])
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def _capture(self, name: str, descriptor: int, limit: int) -> None:
        os.set_blocking(descriptor, False)
        self.captured[name] = Captured(descriptor, limit)
        self.open[descriptor] = name

    def _start_judge(self, wire: socket.socket) -> None:
        reading, writing = os.pipe()
        judge = os.fork()
        if judge == 0:
            os.close(reading)
            run_judge(wire, writing, lambda: _receive(0))
        os.close(writing)
        self._add(judge, "judge")
        os.read(reading, 1)  # the judge has read the tests
        self._capture("verdict", reading, 1 << 16)

    def supervise(self) -> dict[str, Any]:
        """Wait for the end or for a limit; then nothing of the program is left."""
        status = None
        while status is None:
            ready, _, _ = select.select(list(self.open), [], [], self._patience())
            for descriptor in ready:
                self._read(descriptor)
            if self._ended():
                break
            if time.monotonic() - self.used.measured > TICK_SECONDS:
                status = self._exceeded()
        self.stop()
        for name, captured in self.captured.items():
            while name in self.open.values():
                self._read(captured.descriptor)
        return self._result(status)

    def _patience(self) -> float:
        """The end of an output tells the end of a run at once; only the limits need a clock."""
        return TICK_SECONDS if self.open else 0.002

    def _read(self, descriptor: int) -> None:
        name = self.open[descriptor]
        before = len(self.captured[name].kept)
        if not self.captured[name].drain():
            del self.open[descriptor]
        if name == "phase" and self.building and self.captured[name].kept[before:].startswith(BUILT):
            self.building = False  # the program's own clock starts
            self.used.measure()
            self.used.base_seconds = self.used.seconds
            self.started = time.monotonic()

    def _ended(self) -> bool:
        """Whether the judge (or the program without one) is done."""
        awaited = "judge" if self.judged else "program"
        waiting = [process for process, role in self.processes.items() if role == awaited]
        return all(self._wait(process, os.WNOHANG) for process in waiting)

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
        self.used.measure()
        allowed = self.request["build_cpu_seconds"] if self.building else self.request["cpu_seconds"]
        if self.used.counted_seconds > allowed:
            return "compile_error" if self.building else "timeout"
        if time.monotonic() - self.started > self.request["wall_seconds"]:
            return "timeout"
        if self.used.megabytes > self.request["memory_megabytes"]:
            return "memory"
        if self.used.count > self.limits.processes + 3:
            return "failed"
        return None

    def stop(self) -> None:
        """Kill what is left and wait for all of it."""
        for process in list(self.processes):
            _kill(process)
        for process in list(self.processes):
            self._wait(process, 0)
        # a cell's processes end with its first; without isolation, nothing but this ends them
        while not self.limits.isolated and (left := descendants(os.getpid())):
            for process in left:
                _kill(process)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)

    def end(self) -> None:
        """Leave neither a process nor a descriptor nor a file."""
        self.stop()
        for captured in self.captured.values():
            os.close(captured.descriptor)
        if not self.limits.isolated:
            shutil.rmtree(self.limits.folder, ignore_errors=True)

    def _result(self, status: str | None) -> dict[str, Any]:
        detail = ""
        if status is None and self.judged:
            status, detail = read_verdict(bytes(self.captured["verdict"].kept))
        elif status is None and self.captured["phase"].kept.startswith(BUILD_FAILED) and "run" in self.request:
            status = "compile_error"
        elif status is None:
            status = "passed" if self.exit_code == 0 else "failed"
        seal = (self.request.get("seal") or "").encode()
        if status == "passed" and seal not in self.captured["stdout"].last:
            status, detail = "failed", UNSEALED
        seconds = self.used.counted_seconds
        return {
            "status": status,
            "detail": detail,
            "exit_code": self.exit_code,
            "stdout": _without(self.captured["stdout"].kept, seal).decode(errors="replace"),
            "stderr": self.captured["stderr"].kept.decode(errors="replace"),
            "cpu_seconds": round(seconds, 3),
            "wall_seconds": round(time.monotonic() - self.started, 3),
            "peak_megabytes": round(self.used.peak_megabytes, 1),
        }


def _without(output: bytearray, seal: bytes) -> bytearray:
    """An output without the line that the harness itself had printed."""
    return output.replace(b"\n" + seal + b"\n", b"") if seal else output


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


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
