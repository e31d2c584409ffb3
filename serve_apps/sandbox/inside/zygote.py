"""The warm interpreter inside the sandbox: forks a cell for each program and another for the judge of its tests.

Runs as a script inside bubblewrap on the standard library alone; its descriptor 0 is the channel to the sandbox's owner
(`messages.py`). What a program is given, prints and is tested with passes through descriptors that are handed on: none
of it is ever in this process's memory, from which the next program is forked.
"""

import contextlib
import gc
import os
import select
import signal
import site
import socket
import sys
import time
from typing import Any, NamedTuple

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100,PTH120 - a script without its package

from cell import become_subreaper, open_cell
from judging import judge
from limits import CellLimits
from messages import close_all, receive, send
from program import BUILD_FAILED, BUILT, program
from syscalls import CALL_NUMBERS, prepare
from usage import Usage, descendants, starved

# what most programs import and is small: what is loaded here is copied with every program
WARM = "bisect collections copy functools heapq itertools linecache math operator re random string threading typing"
COLLECT_EVERY = 32
JUDGE_MEGABYTES = 4096
ASLEEP_SECONDS, ASLEEP_SHARE = 1.0, 0.1


def main() -> None:
    """Answer requests until the other end closes."""
    become_subreaper()
    sys.path.append(sys.argv[1])  # this environment's packages, for programs and tests that import them
    for name in WARM.split():
        __import__(name)
    site.setquit()  # as an interpreter has them; its search for packages is left out
    site.setcopyright()
    site.sethelper()
    if os.uname().machine in CALL_NUMBERS:
        prepare()  # without isolation, programs run on any machine
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    first = receive(channel)
    if first is None:
        return
    group = first[1]
    gc.disable()  # a collection would touch, and so copy, every page that a fork shares with this process
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # programs are short: the usual 700 makes them collect hundreds of times
    send(channel, {"ready": os.getpid()})
    answered = 0
    while (request := receive(channel)) is not None:
        message, descriptors = request
        send(channel, _answer(channel, message, descriptors, group))
        answered += 1
        if answered % COLLECT_EVERY == 0:
            gc.collect()


def _answer(channel: socket.socket, request: dict[str, Any], descriptors: list[int], group: list[int]) -> Any:
    run = Run(channel, request, descriptors, group)
    try:
        run.start()
        return run.supervise()
    except OSError as error:
        return {"status": "sandbox_error", "reason": str(error)}
    finally:
        run.end()


class Exceeded(NamedTuple):
    """The limit that ended a run."""

    status: str
    limit: str
    starved: bool = False


class Run:
    """A program, perhaps its judge, and the limits on both.

    `descriptors`: the program's text, its three streams, and for a judged one the tests and where the verdict goes.
    `group`: the control group's account of CPU time, or nothing.
    """

    def __init__(
        self, channel: socket.socket, request: dict[str, Any], descriptors: list[int], group: list[int]
    ) -> None:
        self.channel = channel
        self.request = request
        self.descriptors = descriptors
        limits = dict(request["cell"])
        if not limits["isolated"]:
            import tempfile

            limits["folder"] = tempfile.mkdtemp(prefix="program-")
        self.limits = CellLimits(**limits)
        self.judged = request["kind"] == "judged"
        self.building = self.awaiting_phase = request["kind"] == "command"
        self.phase = b""
        self.processes: dict[int, str] = {}
        self.exit_code: int | None = None
        self.used = Usage(group[0] if group else None, self.limits.isolated)
        self.told_asleep = False
        self.started = time.monotonic()

    def start(self) -> None:
        """Start the program's cell, then the judge."""
        text, *streams = self.descriptors[:4]
        ours, theirs = socket.socketpair()
        self.phases, told = os.pipe()
        os.set_blocking(self.phases, False)
        channel = theirs.fileno() if self.judged else told
        keep = {stream: n for n, stream in enumerate([*streams, channel, text])}
        try:
            cell = open_cell(self.limits, keep, program(self.request["kind"]), alone=self.judged)
            self.processes[cell] = "program"
            os.close(told)
            theirs.close()
            if self.judged:
                self._start_judge(ours)
        finally:
            ours.close()
            close_all(self.descriptors)
        self.started = time.monotonic()

    def _start_judge(self, wire: socket.socket) -> None:
        """The judge runs the benchmark's own tests, in the sandbox and in no cell: namespaces cost more than tests."""
        reading, writing = os.pipe()
        silence = os.open("/dev/null", os.O_RDWR)
        streams = [os.dup(silence), os.dup(silence), silence]
        tests, verdict = self.descriptors[4:6]
        keep = {source: n for n, source in enumerate([*streams, wire.fileno(), tests, verdict, writing])}
        limits = self.limits._replace(address_megabytes=JUDGE_MEGABYTES, processes=64, trusted=True)
        try:
            cell = open_cell(limits, keep, judge, alone=True)
        finally:
            close_all([*streams, writing])
        self.processes[cell] = "judge"
        os.read(reading, 1)  # the judge has read the tests
        os.close(reading)

    def supervise(self) -> dict[str, Any]:
        """Wait for the end or for a limit; then nothing of the program is left."""
        awaited = "judge" if self.judged else "program"
        watched = {os.pidfd_open(process) for process, role in self.processes.items() if role == awaited}
        exceeded = None
        try:
            while exceeded is None:
                waiting = [*watched, *([self.phases] if self.awaiting_phase else [])]
                ready, _, _ = select.select(waiting, [], [], self.used.patience())
                if self.phases in ready:
                    self._read_phase()
                if watched & set(ready) and self._ended(awaited):
                    break
                if self.used.due():
                    exceeded = self._exceeded()
        finally:
            close_all(list(watched))
        self._read_phase()
        self.stop()
        return self._result(exceeded)

    def _read_phase(self) -> None:
        """A build tells with one byte how it went; where it went well, the program's own clock and limits begin."""
        with contextlib.suppress(BlockingIOError):
            self.phase = self.phase or os.read(self.phases, 1)
            self.awaiting_phase = False
            if self.building and self.phase == BUILT:
                self.used.begin()
                self.started = time.monotonic()
                self.building = False

    def _ended(self, awaited: str) -> bool:
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

    def _exceeded(self) -> Exceeded | None:
        self.used.measure()
        passed = time.monotonic() - self.started
        build = "build_" if self.building else ""
        if self.used.seconds > self.request[f"{build}cpu_seconds"]:
            return Exceeded("compile_error" if self.building else "timeout", "cpu")
        if passed > self.request[f"{build}wall_seconds"]:
            return Exceeded("timeout", "wall", starved(descendants(os.getpid())))
        if self.used.megabytes > self.request["memory_megabytes"]:
            return Exceeded("memory", "memory")
        if self.used.count > self.limits.processes + 6:
            return Exceeded("failed", "processes")
        if not self.told_asleep and passed > ASLEEP_SECONDS and self.used.seconds < ASLEEP_SHARE * passed:
            self.told_asleep = True
            send(self.channel, {"asleep": True})
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
        if self.judged and self.limits.isolated:
            _sweep_after_tests()
        close_all([self.phases])
        if not self.limits.isolated:
            import shutil

            shutil.rmtree(self.limits.folder, ignore_errors=True)

    def _result(self, exceeded: Exceeded | None) -> dict[str, Any]:
        status = exceeded.status if exceeded else None
        if status is None and self.phase == BUILD_FAILED:
            status = "compile_error"
        return {
            "status": status,
            "limit": exceeded.limit if exceeded else "",
            "starved": bool(exceeded and exceeded.starved),
            "exit_code": self.exit_code,
            "cpu_seconds": round(self.used.seconds, 3),
            "wall_seconds": round(time.monotonic() - self.started, 3),
            "peak_megabytes": round(self.used.peak_megabytes, 1),
        }


def _sweep_after_tests() -> None:
    """What tests have started or written in the sandbox does not meet the next tests."""
    with contextlib.suppress(ChildProcessError):
        while True:  # orphans are this process's children
            for process in descendants(os.getpid()):
                _kill(process)
            os.waitpid(-1, 0)
    for folder in ("/tmp", "/dev/shm"):
        for name in os.listdir(folder):  # noqa: PTH208 - names
            import shutil

            path = f"{folder}/{name}"
            shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.unlink(path)  # noqa: PTH108,PTH112


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
