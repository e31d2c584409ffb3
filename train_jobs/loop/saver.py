"""Checkpoints in the background: training stands still for a copy in memory, files are written while it goes on.

The writers meet in the file system, not in a collective call, which would mix with training's own: each
leaves a checksum when its file is whole, and the first process makes the checkpoint complete when it sees all of them.
"""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from starloom.errors import StorageError, one_line
from train_jobs.checkpoints import store
from train_jobs.checkpoints.published import Published
from train_jobs.job import Job
from train_jobs.loop.place import Place

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 1800.0  # for the slowest stage's file


class Saver:
    """One process's part of a run's checkpoints; at most one is being written at a time."""

    def __init__(self, job: Job, folder: Path, place: Place) -> None:
        self._job, self._folder, self._place = job, folder, place
        self._share = store.Share(place.data, job.config.layout.data, place.tensor.rank == 0)
        self._published = Published(job) if job.published else None
        self._alone = not completes_here(job)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, engine: Any, step: int, updates: int, heldout_loss: float | None) -> None:
        """Copy the state and start writing ``step-N``; a collective call. Waits for the one before, if need be."""
        self.wait()
        tensors = store.snapshot(engine, self._place.tensor, vocabulary=self._job.vocabulary, share=self._share)
        if not (self._share.writes or dist.get_rank() == 0):
            return
        config = self._job.config
        position: dict[str, Any] = {
            "step": step,
            "sample": step * config.global_batch,
            "seed": config.seed,
            "updates": updates,
        }
        if heldout_loss is not None:
            position["heldout_loss"] = heldout_loss
        target = self._folder / f"step-{step}"
        self._pending = self._thread.submit(self._write, target, tensors, position, dist.get_rank() == 0)

    def wait(self) -> None:
        """Until what was started is written.

        Raises:
            StorageError: it could not be written; training may go on from the one before.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                pending.result()
            except OSError as error:
                raise StorageError(f"checkpoint: {one_line(error)}") from error

    def _write(self, target: Path, tensors: dict[str, Any], position: dict[str, Any], completes: bool) -> None:
        if self._share.writes:
            stem = self._share.file(self._place.stage, self._place.data)
            store.write_share(target, stem, tensors)
            if self._published:
                self._published.share(target, stem)
                if self._alone:
                    self._published.forget_before(position["step"])
        if completes:
            self._complete(target, position)

    def _complete(self, target: Path, position: dict[str, Any]) -> None:
        config = self._job.config
        deadline = time.monotonic() + PATIENCE_SECONDS
        layout = config.layout
        stems = [self._share.file(stage, part) for stage in range(layout.pipeline) for part in range(layout.data)]
        while not self._told(target, stems, position):
            if time.monotonic() > deadline:
                raise StorageError(f"{target}: not all files were written within {PATIENCE_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        store.prune(self._folder, last=config.keep_checkpoints, every=config.keep_every, best=config.keep_best)
        if self._published:
            self._published.complete(target)

    def _told(self, target: Path, stems: list[str], position: dict[str, Any]) -> bool:
        if self._published:
            self._published.gather(target, stems)
        return store.write_manifest(target, stems, position)


def completes_here(job: Job) -> bool:
    """Whether the process that completes checkpoints works in this one's folder; a collective call."""
    first = [f"{socket.gethostname()}:{Path(job.output).resolve()}"]
    own = first[0]
    dist.broadcast_object_list(first)
    return first[0] == own
