"""Programs that sleep hold no core, and a program that ends its sandbox has failed."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from serve_apps.sandbox.inside.usage import descendants
from serve_apps.sandbox.jobs import Program, Workshop, doubtful, final, run_jobs
from serve_apps.sandbox.sandbox import Limits, Sandbox, Verdict

SLEEP = "import time\ntime.sleep(1000)"


def words(process: int) -> bytes:
    """The command line of a process; nothing once it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_sleeping_programs_give_their_core_to_the_next() -> None:
    limits = Limits(wall_seconds=4.0)
    began = time.monotonic()
    order: list[int] = []
    jobs = [*(Program("python", SLEEP) for _ in range(6)), Program("python", "print(1)")]
    verdicts = run_jobs(jobs, limits, workers=1, finished=lambda number, verdict: order.append(number))
    took = time.monotonic() - began
    assert [verdict.status for verdict in verdicts] == ["timeout"] * 6 + ["passed"]
    assert {verdict.limit for verdict in verdicts[:6]} == {"wall"}
    assert not any(verdict.starved for verdict in verdicts)
    # one after another would take 24 s and, run again, 72 s; all are ended by their own limit, none by another's
    assert all(verdict.wall_seconds >= 4.0 for verdict in verdicts[:6])
    assert len({order.index(number) for number in range(7)}) == 7
    assert took < 6 * 4.0


def test_only_what_a_busy_machine_may_have_decided_runs_again() -> None:
    assert doubtful(Verdict("timeout", limit="wall", starved=True))
    assert doubtful(Verdict("sandbox_error"))
    assert not doubtful(Verdict("timeout", limit="wall"))
    assert not doubtful(Verdict("timeout", limit="cpu", starved=True))
    assert final(Verdict("sandbox_error", "gone")).status == "failed"
    assert final(Verdict("timeout", limit="wall", starved=True)).status == "timeout"


def test_program_whose_sandbox_ends_has_failed_and_the_run_goes_on() -> None:
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        """End every sandbox in which a process stays, as a kernel without memory would."""
        while not ended.is_set():
            for process in descendants(os.getpid()):
                cells = {n for n in descendants(process) if b"zygote.py" in words(n) and b"bwrap" not in words(n)}
                if b"bwrap" in words(process).split(b"\0")[0] and len(cells) == 3:
                    time.sleep(0.3)
                    if cells <= set(descendants(process)):
                        os.kill(process, signal.SIGKILL)
                        killed.append(process)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        jobs = [Program("python", source) for source in ("print(1)", SLEEP, "print(2)")]
        verdicts = run_jobs(jobs, Limits(wall_seconds=20.0), workers=1)
    finally:
        ended.set()
        killer.join()
    assert killed
    assert [verdict.status for verdict in verdicts] == ["passed", "failed", "passed"]
    assert "ended its sandbox twice" in verdicts[1].detail


def test_a_workshop_reuses_its_sandboxes() -> None:
    shop = Workshop(Limits(), 2)
    try:
        assert all(shop.run(Program("python", "print(1)"), Limits()).passed for _ in range(5))
        assert len(shop._opened) == 1
        assert isinstance(shop._opened[0], Sandbox)
    finally:
        shop.close()
