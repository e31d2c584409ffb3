"""Every evil program ends as it should, gets nothing, and leaves nothing."""

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve_apps.sandbox.inside.usage import descendants
from serve_apps.sandbox.sandbox import Limits, Sandbox, Tests, running
from tests.serve_apps.evaluation.evil_programs import ATTACKS, FORGERIES, MARK, Attack

pytestmark = pytest.mark.slow

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=3.0, memory_megabytes=512)
ADD = Tests("", "assert add(1, 2) == 3", ("add",))


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


@pytest.fixture(scope="module")
def sandbox(bait: Bait) -> Iterator[Sandbox]:
    with Sandbox(LIMITS) as opened:
        yield opened


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_gets_nothing_and_leaves_nothing(sandbox: Sandbox, bait: Bait, attack: Attack) -> None:
    before = set(descendants(sandbox.process_id))
    verdict = sandbox.run_python(bait.fill(attack.source))
    assert verdict.status in attack.ends, verdict
    assert "ESCAPED" not in verdict.stdout
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
