"""What each training process does: build model, build data, restore, fit, export."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from starloom.kinds import Model
from train_jobs.checkpoints import store
from train_jobs.checkpoints.export import export_adapter, export_checkpoint
from train_jobs.checkpoints.published import Published
from train_jobs.job import Job
from train_jobs.loop.batches import open_data
from train_jobs.loop.elastic import wants_more
from train_jobs.loop.engine import build_engine, heldout_loss, restore, train_step
from train_jobs.loop.guard import BadLossError, LossGuard
from train_jobs.loop.records import Records, say
from train_jobs.loop.saver import Saver
from train_jobs.loop.schedule import learning_rate
from train_jobs.loop.timings import PartTimer
from train_jobs.loop.watchdog import Watchdog


def work(job: Job, after_step: Callable[[int], None] = lambda step: None) -> None:
    """Train from the last checkpoint, or from the start, to the last step, and export the model."""
    torch.set_num_threads(job.config.threads_per_worker)
    while (reached := _attempt(job, after_step)) is None:
        gc.collect()  # the engine that is left behind
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if dist.get_rank() == 0 and reached == job.config.steps:
        export_last(job)
        if job.published:
            Published(job).model()
    dist.barrier()


def _attempt(job: Job, after_step: Callable[[int], None]) -> int | None:
    """Train on from the last checkpoint; the last step that was made. None when a bad loss asks to go back there.

    That step is not the run's last one where more ranks are to go on.
    """
    config = job.config
    engine, place = build_engine(job)
    _fetch(job)
    data, heldout = open_data(job)
    step = restore(job, engine, place)
    saver = Saver(job, Path(job.output) / Model.CHECKPOINTS, place)
    guard = LossGuard(job, engine, step)
    timer = PartTimer(engine)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    records = Records(job, rank=rank, ranks=ranks, step=step)
    with Watchdog(Path(job.output), timer, rank=rank, ranks=ranks, hang_seconds=config.hang_seconds) as watchdog:
        try:
            while step < config.steps:
                step += 1
                started = time.perf_counter()
                row: dict[str, Any] = {"step": step}
                if not guard.leaves_out(step):
                    loss = train_step(job, engine, place, data, step - 1)
                    if guard.check(step, loss):
                        row |= {"loss": loss, "gradient_norm": float(engine.get_global_grad_norm())}
                row["learning_rate"] = learning_rate(config.optimizer, step - 1, config.steps)
                row["tokens"] = step * config.global_batch * config.length
                records.step(row, time.perf_counter() - started, timer.take())
                watchdog.step(step)
                measured = None
                if heldout and (step % config.heldout_every == 0 or step == config.steps):
                    losses = {name: heldout_loss(job, engine, place, part) for name, part in heldout.items()}
                    measured = losses.pop("")
                    records.heldout(step, measured, losses)
                    timer.take()  # the held-out batches' time is not the next step's
                if step % config.checkpoint_every == 0 or step == config.steps:
                    started = time.perf_counter()
                    with watchdog.pause():
                        saver.save(engine, step, guard.updates(step), measured)
                    records.checkpoint(step, time.perf_counter() - started)
                    if step < config.steps and _together(engine, rank == 0 and wants_more(job)):
                        break
                after_step(step)
        except BadLossError as bad:
            if rank == 0:
                say(f"{bad}: its loss is bad; back to the last checkpoint, and without these samples")
            return None
        finally:
            with watchdog.pause():
                saver.wait()
            records.close()
    dist.barrier()
    return step


def _fetch(job: Job) -> None:
    """Where nodes share no folder: what the run has come to; a collective call."""
    if job.published:
        if dist.get_rank() == 0:
            Published(job).logs()  # what it left out before it went back
        dist.barrier()
        Published(job).fetch()


def _together(engine: Any, said: bool) -> bool:
    """Whether any process says so; a collective call."""
    flag = torch.tensor(float(said), device=engine.device)
    dist.all_reduce(flag)
    return bool(flag)


def export_last(job: Job) -> None:
    """Write the model folder, or the adapter's, from the last checkpoint."""
    found = store.latest(Path(job.output) / Model.CHECKPOINTS)
    assert found is not None
    target = Path(job.output) / Model.FOLDER
    if job.config.lora:
        export_adapter(found, target, job.shape, job.config.lora, base=job.base or job.initial, tokenizer=job.tokenizer)
    else:
        export_checkpoint(found, target, job.shape, job.tokenizer, chats=job.turns is not None)
