"""A model that is cut over several processes of a machine, a card each; this process has the engine and the first part.

The others run `tensor_part`: they are told the pieces of each step by a pipe, compute their part of it, and end when
the pipe does. What is summed between them goes through NCCL, or gloo on the CPU.
"""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from serve_apps.engine.pieces import Piece, Scores
from serve_apps.engine.slices import Slice, TensorGroup, slice_of
from serve_apps.engine.torch_runner import Device, Sizes, TorchRunner
from starloom.errors import RunError, UserError
from starloom.model.adapter import LowRank
from starloom.model.config import ModelConfig
from starloom.model.model import CodeModel

END_SECONDS = 10.0  # for a part to end in after its pipe has


@dataclass(frozen=True)
class TensorPart:
    """What a process is told of itself; its weights follow, one by one."""

    rank: int
    size: int
    meeting: str  # a file through which they find each other
    sizes: Sizes
    config: ModelConfig

    def runner(self, held: Slice) -> tuple[TorchRunner, TensorGroup]:
        """Its runner with all memory that it needs, and its group, which has not met yet."""
        if self.sizes.device == "cuda":
            torch.cuda.set_device(self.rank)
        group = TensorGroup(self.rank, self.size)
        return TorchRunner(held, self.sizes, group=group), group

    def meet(self, group: TensorGroup) -> None:
        """Wait for the others, who are known to be about to come."""
        group.processes = _processes(self.meeting, self.rank, self.size, self.sizes.device)


def _processes(meeting: str, rank: int, size: int, device: Device) -> Any:
    """One of its own: a process may serve several models, and torch's default group is one a process."""
    store = dist.FileStore(meeting, size)  # type: ignore[attr-defined]
    if device == "cuda":
        return dist.ProcessGroupNCCL(store, rank, size, dist.ProcessGroupNCCL.Options())
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    return dist.ProcessGroupGloo(store, rank, size, options)


def _check_cut(config: ModelConfig, size: int) -> None:
    """Whether a model can be cut into so many parts.

    Raises:
        UserError: it cannot.
    """
    for name, whole in (("heads", config.heads), ("inner width", config.inner)):
        if whole % size:
            raise UserError(f"tensor_parallel = {size}: the model's {name}, {whole}, cannot be cut into so many parts")


class TensorParallelRunner:
    """The runner of the first part, which has the others compute with it."""

    def __init__(self, model: CodeModel, adapters: Sequence[LowRank], sizes: Sizes, parts: int) -> None:
        """Starts the other processes and sends them their weights.

        Raises:
            RunError: one has ended as it started.
        """
        _check_cut(model.config, parts)
        self.block_size, self.precision = sizes.block_size, sizes.precision
        self._folder = Path(tempfile.mkdtemp(prefix="starloom-tensor-"))
        meeting = str(self._folder / "meeting")
        self._others = [_Other(rank) for rank in range(1, parts)]
        self._broken = ""
        try:
            for other in self._others:
                part = TensorPart(other.rank, parts, meeting, sizes, model.config)
                other.send_part(part, slice_of(model, adapters, sizes.dtype, other.rank, parts))
            own = TensorPart(0, parts, meeting, sizes, model.config)
            self._own, group = own.runner(slice_of(model, adapters, sizes.dtype, 0, parts))
            for other in self._others:
                told(other.pipe)  # that it has its weights and its cache
            own.meet(group)
        except (EOFError, ConnectionError):
            self.close()
            raise RunError("a part of the model ended as it started; see its words above") from None
        except BaseException:
            self.close()
            raise

    @property
    def failure(self) -> str:
        """What keeps it from ever computing again: a part has ended, or one failed at a step that others have done."""
        ended = [other.rank for other in self._others if other.process.poll() is not None]
        return f"part {ended[0]} of the model has ended" if ended else self._broken

    def forward(self, pieces: Sequence[Piece]) -> Scores:
        """K and V of all pieces' tokens into the caches, and the logits that are wanted.

        Raises:
            RunError: `failure`.
        """
        if self.failure:  # others would wait for who is gone
            raise RunError(self.failure)
        try:
            told_to_all = pickle.dumps(pieces)
            for other in self._others:
                other.pipe.send_bytes(told_to_all)
            return self._own.forward(pieces)
        except BaseException as error:
            self._broken = f"a step of the model's parts failed: {type(error).__name__}: {error}"
            raise

    def close(self) -> None:
        """End the other processes."""
        for other in self._others:
            other.pipe.close()
        for other in self._others:
            other.end()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Other:
    """Another part's process, and the pipe to it."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.pipe, theirs = Pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "serve_apps.engine.tensor_part", str(theirs.fileno()), str(os.getpid())]
        self.process = subprocess.Popen(
            command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()

    def send_part(self, part: TensorPart, held: Slice) -> None:
        """Its weights, one at a time: a pipe's message is held in memory at both ends."""
        for item in (part, *held.state.items(), None, held.adapters):
            tell(self.pipe, item)

    def end(self) -> None:
        """Wait for it to end by itself, and end it if it does not."""
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def take_part(pipe: Connection) -> TorchRunner:
    """What `TensorParallelRunner` sends to one process, made its runner."""
    part: TensorPart = told(pipe)
    state = dict(iter(lambda: told(pipe), None))
    runner, group = part.runner(Slice(part.config, state, told(pipe)))
    tell(pipe, "ready")
    part.meet(group)
    return runner


def tell(pipe: Connection, item: Any) -> None:
    """Send it as plain bytes: a connection's own way with tensors is memory that both processes share."""
    pipe.send_bytes(pickle.dumps(item))


def told(pipe: Connection) -> Any:
    """What `tell` sent; EOFError at the pipe's end."""
    return pickle.loads(pipe.recv_bytes())
