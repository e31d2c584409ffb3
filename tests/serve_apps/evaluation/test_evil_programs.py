"""Every evil program ends as it should, gets nothing, and leaves nothing."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from serve_apps.sandbox.control_groups import SPARE_MEGABYTES, make_group
from serve_apps.sandbox.inside.usage import descendants
from serve_apps.sandbox.sandbox import Limits, Sandbox, Tests, bubblewrap, running
from tests.patience import PATIENCE
from tests.serve_apps.evaluation.evil_programs import ATTACKS, FORGERIES, MARK, Attack

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
LIMITS = Limits(cpu_seconds=1.0, wall_seconds=3.0, memory_megabytes=512)
ADD = Tests("", "assert add(1, 2) == 3", ("add",))
# a program, its input, its output and its tests, each with a mark that the next program looks for
BEFORE = "print('last-program-output', input())\ndef add(a, b): return a + b  # last-program-text"
BEFORE_TESTS = Tests("mark = 'last-program-setup'", "assert add(1, 2) == 3, 'last-program-test'", ("add",))


@dataclass(frozen=True)
class Bait:
    """What the programs are after, on the host."""

    secret: Path
    port: int
    name: str

    def fill(self, source: str) -> str:
        """The program with the bait's places in it."""
        for key, value in (("{secret}", self.secret), ("{port}", self.port), ("{socket}", self.name)):
            source = source.replace(key, str(value))
        return source


@pytest.fixture(scope="module")
def bait(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bait]:
    secret = tmp_path_factory.mktemp("secret") / "secret.txt"
    secret.write_text("starloom-canary")
    os.environ["STARLOOM_CANARY"] = "starloom-canary"
    name = f"starloom-canary-{os.getpid()}"
    listener, local = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    local.bind(f"\0{name}")
    local.listen()
    yield Bait(secret, listener.getsockname()[1], name)
    listener.close()
    local.close()
    del os.environ["STARLOOM_CANARY"]


@pytest.fixture(scope="module", params=[True, False], ids=["control group", "no control group"])
def sandbox(bait: Bait, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if request.param and not make_group_and_remove():
        pytest.skip("no control group can be made here")
    with Sandbox(LIMITS, grouped=request.param) as opened:
        yield opened


def make_group_and_remove() -> bool:
    group = make_group()
    group.remove()
    return bool(group.folders)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_gets_nothing_and_leaves_nothing(sandbox: Sandbox, bait: Bait, attack: Attack) -> None:
    before = set(descendants(sandbox.process_id))
    sandbox.run_python(BEFORE, stdin="last-program-input")
    sandbox.judge_python(BEFORE.replace(", input()", ""), BEFORE_TESTS)
    verdict = sandbox.run_python(bait.fill(attack.source))
    assert verdict.status in attack.ends, verdict
    assert "ESCAPED" not in verdict.stdout, verdict.stdout
    if sandbox.grouped:
        assert verdict.peak_megabytes <= LIMITS.memory_megabytes + SPARE_MEGABYTES
    assert len(verdict.stdout) <= LIMITS.output_bytes
    assert set(descendants(sandbox.process_id)) == before
    assert marked_processes() == []
    assert not list(Path("/").glob("*/starloom-evil"))
    assert sandbox.judge_python("def add(a, b): return a + b", ADD).passed  # the sandbox is as good as new
    assert sandbox.run_python("import os; print(os.listdir('/tmp'), os.listdir('/dev/shm'))").stdout == "[] []\n"


@pytest.mark.parametrize("source", FORGERIES)
def test_no_program_forges_its_verdict(sandbox: Sandbox, source: str) -> None:
    assert sandbox.judge_python(source, ADD).status in ("failed", "timeout")
    assert sandbox.judge_python("def add(a, b): return a + b", ADD).passed


def test_sandboxes_end_with_their_owner_and_leave_no_descriptor(bait: Bait) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for _ in range(3):
        with Sandbox(LIMITS) as opened:
            opened.run_python("print(1)")
            processes = {opened.process_id, *descendants(opened.process_id)}
        assert not processes & set(descendants(os.getpid()))
        assert not any(running(process) for process in processes)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_sandbox_that_is_killed_from_outside_is_replaced() -> None:
    with Sandbox(LIMITS) as opened:
        os.kill(max(descendants(opened.process_id)), 9)
        assert opened.run_python("print(1)").status == "sandbox_error"
        assert opened.run_python("print(1)").stdout == "1\n"


def test_nobody_inside_is_the_hosts_root(bait: Bait) -> None:
    with Sandbox(LIMITS) as opened:
        seen: set[int] = set()
        watching = threading.Event()

        def watch() -> None:
            while not watching.is_set():
                for process in (opened.process_id, *descendants(opened.process_id)):
                    with contextlib.suppress(OSError):
                        status = Path(f"/proc/{process}/status").read_text()
                        found = [line.split()[1:] for line in status.splitlines() if line.startswith(("Uid", "Gid"))]
                        seen.update(int(number) for line in found for number in line)

        watcher = threading.Thread(target=watch)
        watcher.start()
        opened.run_python("import time; time.sleep(0.3)")
        watching.set()
        watcher.join()
    assert seen
    assert 0 not in seen


def test_a_mapping_of_hundreds_of_gigabytes_is_counted_by_its_tables() -> None:
    source = (
        "import ctypes\nl = ctypes.CDLL(None)\nl.mmap.restype = ctypes.c_void_p\n"
        "p = l.mmap(None, ctypes.c_size_t(1 << 40), 1, 0x4022, -1, 0)\n"
        "for n in range(0, 1 << 40, 1 << 21): ctypes.c_char.from_address(p + n).value"
    )
    limits = replace(LIMITS, limit_addresses=False, cpu_seconds=20.0, wall_seconds=20.0, memory_megabytes=200)
    for grouped in (True, False):
        with Sandbox(limits, grouped=grouped) as opened:
            assert opened.run_python(source).status == "memory"


def test_remarks_of_tests_never_fill_a_pipe() -> None:
    loud = Tests("import sys", "sys.stderr.write('x' * 70000)\nprint('x' * 70000)\nassert add(1, 2) == 3", ("add",))
    with Sandbox(LIMITS) as opened:
        assert all(opened.judge_python("def add(a, b): return a + b", loud).passed for _ in range(5))


@pytest.mark.skipif(os.geteuid() != 0, reason="this is the ordinary user's run")
def test_the_whole_suite_as_an_ordinary_user() -> None:
    """The same file in a process without root's rights."""
    words = as_ordinary_user("-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "-rs", __file__)
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert "passed" in found.stdout


def as_ordinary_user(*arguments: str) -> list[str]:
    """Root's command line for this interpreter as a user of no rights, with what only root may reach in its place."""
    hidden = [path for path in (Path(sys.base_prefix), ROOT) if not all(p.stat().st_mode & 1 for p in path.parents)]
    walls = [str(bubblewrap()), "--dev-bind", "/", "/", "--cap-drop", "ALL"]
    walls += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--tmpfs", "/tmp"]
    for place in dict.fromkeys(f"/{path.parts[1]}" for path in hidden):
        walls += ["--tmpfs", place]
    for path in hidden:
        for folder in [*path.parents][-2::-1]:
            walls += ["--perms", "0755", "--dir", str(folder)]
        walls += ["--ro-bind", str(path), str(path)]
    become = "import os, sys; os.setgroups([]); os.setresgid(4242, 4242, 4242); os.setresuid(4242, 4242, 4242); "
    become += "os.environ['HOME'] = '/tmp'; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return [*walls, sys.executable, "-c", become, *arguments]


def marked_processes() -> list[str]:
    """Command lines of processes that an attack left behind, anywhere on this system."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if MARK.encode() in words:
            found.append(repr(words))
    return found
