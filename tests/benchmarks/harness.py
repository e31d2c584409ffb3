"""What the benchmarks share: environments of their own for peers, measured limits, and how results are printed."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".bench"  # git-ignored: peers' environments and downloaded corpora
VERSIONS_OF = ("ray", "torch", "deepspeed", "transformers", "tokenizers", "datasketch", "pyarrow", "numpy", "numba")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor()
    return platform.processor() or platform.machine()


def versions(*more: str) -> dict[str, str]:
    """Installed versions of the packages that matter, and Python's."""
    found = {"python": platform.python_version()}
    for package in (*VERSIONS_OF, *more):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def best_seconds(work: Callable[[], object], *, repeats: int = 3) -> float:
    """The least wall-clock seconds of several runs: the one least disturbed by others."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def starloom(*words: str, **variables: str) -> float:
    """Seconds of a command, which must end well."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "starloom.cli", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - started


def environment(**variables: str) -> dict[str, str]:
    """This process's, with the checkout's modules; they are compiled once, as on users' machines."""
    own = {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, **own, **variables}


def measured_bandwidth(megabytes: int = 512) -> float:
    """Bytes per second that all cores together read from memory (torch's sum over a float32 array)."""
    import torch

    array = torch.ones(megabytes * (1 << 20) // 4)
    return array.numel() * 4 / best_seconds(lambda: array.sum(), repeats=5)


def measured_matmul(size: int = 2048) -> float:
    """fp32 operations per second of torch's matrix product with all cores, 2·n³ an n×n product."""
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / best_seconds(lambda: a @ b, repeats=5)


def ensure_environment(name: str, packages: Sequence[str]) -> Path:
    """A virtual environment for a peer below .bench, made once; returns its Python. Peers never touch ours."""
    folder = BENCH / name
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        stamp.write_text(wanted)
    return python


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table that is aligned for reading in a terminal too."""
    text = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[n]) for line in [list(header), *text]) for n in range(len(header))]
    lines = [" | ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)) for line in text]
    head = " | ".join(name.ljust(width) for name, width in zip(header, widths, strict=True))
    rule = " | ".join("-" * width for width in widths)
    return "\n".join([f"### {title}", "", *(f"| {line} |" for line in (head, rule, *lines)), ""])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def finish(benchmark: str, figures: Mapping[str, float | int | None], *, packages: Sequence[str] = ()) -> None:
    """Print the benchmark's last line: one JSON object with its figures, the machine and the versions."""
    machine = {"cores": cores(), "cpu": cpu_name()}
    result = {"benchmark": benchmark, "figures": dict(figures), "machine": machine, "versions": versions(*packages)}
    print(json.dumps(result), flush=True)
