"""Strikes at a run: kill -9 of one of its processes, or every connection to its object store cut, at random moments.

A run is struck some times in a row, and started again where that ended it; then it goes to its end: its bytes must be
those of a run that nothing has struck.
"""

import asyncio
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from starloom import storage
from starloom.artifact import Artifact
from starloom.recipe import State, load_recipe, resolve
from tests.benchmarks.harness import ROOT, environment, starloom

KILLED = ("starloom.cli", "ray::", "raylet", "DashboardAgent")
REQUESTS = "requests"  # to an object store
IN_A_ROW = 8
BYTES_AT_ONCE = 1 << 16


class Relay:
    """It listens on a port of this machine as long as the process lives."""

    def __init__(self, to: int) -> None:
        """`to` is the server's port."""
        self._to, self._open = to, set[asyncio.StreamWriter]()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._relayed, "127.0.0.1", 0), self._loop)
        self.port: int = server.result().sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    async def _cut(self) -> int:
        cut = len(self._open)
        for writer in list(self._open):
            writer.transport.abort()
        return cut

    async def _relayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with suppress(OSError):
                answers, asked = await asyncio.open_connection("127.0.0.1", self._to)
                try:
                    await asyncio.gather(_copied(reader, asked), _copied(answers, writer))
                finally:
                    asked.transport.abort()
        finally:
            self._open.discard(writer)
            writer.transport.abort()


async def _copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while part := await source.read(BYTES_AT_ONCE):
        target.write(part)
        await target.drain()
    target.write_eof()


def strikes(home: Path, root: str, recipe: str, times: int, relay: Relay | None = None) -> int:
    """How many of so many strikes the bytes have survived. With a relay to an object store its requests are struck too.

    `home` is a folder for the recipe, whose text leaves `root` and `source` open, and for what it reads.
    """
    small_source(home / "source")
    source = f'{{ kind = "folder", path = "{home / "source"}", repositories = "children" }}'
    path = home / "struck.toml"

    def beginning(name: str) -> None:
        storage.remove_below(f"{root}/{name}")
        path.write_text(recipe.format(root=f"{root}/{name}", source=source))

    beginning("calm")
    took = starloom("run", str(path))
    expected = digests(path)
    names = KILLED if relay is None else (*KILLED, REQUESTS)
    generator, survived, done = random.Random(0), 0, 0
    while done < times:
        beginning(str(done))
        hit, most = list[str](), min(IN_A_ROW, times - done)
        while len(hit) < most:
            coming = (
                (generator.uniform(0.05, 0.4) * took, names[(done + n) % len(names)]) for n in range(len(hit), most)
            )
            if struck(path, coming, hit, relay) == 0:
                break
        starloom("run", str(path))
        same = digests(path) == expected
        done, survived = done + len(hit), survived + same * len(hit)
        print(f"{root}: {done} of {times}: {', '.join(hit)}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
    return survived


def struck(recipe: Path, coming: Iterable[tuple[float, str]], hit: list[str], relay: Relay | None) -> int:
    """Start a run, strike what has each name after so many seconds more, and wait for its end; its exit status.

    What was struck is added to `hit`.
    """
    command = [sys.executable, "-m", "starloom.cli", "run", str(recipe)]
    with running(command, environment()) as run:
        for seconds, name in coming:
            deadline, done = time.monotonic() + seconds, False
            while not done and run.poll() is None:  # until there is one
                if time.monotonic() > deadline:
                    done = relay.cut() > 0 if name == REQUESTS and relay is not None else _killed(run.pid, name)
                time.sleep(0.05)
            if not done:
                break
            hit.append(f"{name} after {seconds:.0f} s more")
        return run.wait()


def _killed(run: int, name: str) -> bool:
    with suppress(psutil.NoSuchProcess):
        mine = [psutil.Process(run), *psutil.Process(run).children(recursive=True)]
        for one in [one for one in mine if name in " ".join(_words(one))][-1:]:
            one.kill()
            return True
    return False


def digests(recipe: Path) -> dict[str, str]:
    """What each step has come to; it must be done."""
    statuses = resolve(load_recipe(str(recipe)))
    assert all(status.state is State.DONE for status in statuses), [status.state for status in statuses]
    manifests = [Artifact.open(status.folder).manifest for status in statuses]
    return {one.step: hashlib.sha256(repr(sorted(one.files.items())).encode()).hexdigest() for one in manifests}


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


@contextmanager
def running(command: list[str], variables: Mapping[str, str]):  # type: ignore[no-untyped-def]
    """A process whose session is ended with it."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def small_source(folder: Path) -> None:
    """Some modules of the standard library, each as a repository."""
    library = Path(os.__file__).parent
    for name in ("ast", "bisect", "calendar", "cmd", "csv", "dis", "fnmatch", "glob", "gzip", "heapq"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library / f"{name}.py", folder / name / "module.py")
