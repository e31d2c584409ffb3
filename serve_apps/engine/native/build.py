"""Compile ``forward.cpp`` once per source, compiler and processor; the library is kept in the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from starloom.errors import UserError

SOURCE = Path(__file__).with_name("forward.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


def compiler() -> str | None:
    """The C++ compiler of this machine: $CXX, g++ or clang++; None when there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)


def load_library() -> ctypes.CDLL:
    """The compiled forward pass.

    Raises:
        UserError: there is no compiler, or it fails.
    """
    cxx = compiler()
    if cxx is None:
        raise UserError("kernels = 'native' needs a C++ compiler; install g++ or use kernels = 'torch'")
    version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout
    what = "\n".join([SOURCE.read_text(), version, *FLAGS, platform.machine(), _processor_flags()])
    library = _cache() / f"forward-{hashlib.sha256(what.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        _compile(cxx, library)
    return ctypes.CDLL(str(library))


def _compile(cxx: str, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        done = subprocess.run([cxx, *FLAGS, "-o", str(made), str(SOURCE)], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{cxx} cannot compile {SOURCE.name}: {done.stderr.strip()[:500]}; use kernels = 'torch'")
        made.replace(library)  # several replicas may do this at once: the last one wins, all are the same


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "starloom"


def _processor_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux: the machine's name must do
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
