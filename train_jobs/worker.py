"""What each training process does: build model, build data, restore, fit, export."""

import contextlib
import gc
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import nn

from starloom.errors import RunError
from starloom.model.attention import check_backend
from starloom.model.folder import weight_files
from starloom.tokenizer import load_tokenizer
from starloom.tokens import Part, TokenDataset, TokenShard, weighted_parts
from starloom.tokens.mixture import group_of
from train_jobs import checkpoint
from train_jobs.deepspeed_settings import deepspeed_settings
from train_jobs.guard import BadLossError, LossGuard
from train_jobs.job import Job
from train_jobs.layout import Layout
from train_jobs.parallel.clipping import clip_gradients
from train_jobs.parallel.layers import TensorSlice
from train_jobs.parallel.pipeline import build_pipeline, fill, own_parameters, tensor_slice
from train_jobs.parallel.sources import Files, Fresh, Source, Weights
from train_jobs.parallel.stageless import Axes, Batch, StagelessEngine, StagelessModel
from train_jobs.parts import PartTimer
from train_jobs.records import Records, say
from train_jobs.saver import Saver
from train_jobs.schedule import learning_rate
from train_jobs.watchdog import Watchdog

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Place:
    """This process on the three axes."""

    stage: int
    data: int
    tensor: TensorSlice
    layout: Layout

    @property
    def holds_data(self) -> bool:
        """Only the first and the last stage see tokens."""
        return self.stage in (0, self.layout.pipeline - 1)

    @property
    def writes_stage(self) -> bool:
        """One process per stage writes its tensors."""
        return self.data == 0 and self.tensor.rank == 0


def work(job: Job, after_step: Callable[[int], None] = lambda step: None) -> None:
    """Train from the last checkpoint, or from the start, to the last step, and export the model."""
    torch.set_num_threads(job.config.threads_per_worker)
    while not _attempt(job, after_step):
        gc.collect()  # the engine that is left behind
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if dist.get_rank() == 0:
        export(job)
    dist.barrier()


def _attempt(job: Job, after_step: Callable[[int], None]) -> bool:
    """Train on from the last checkpoint; False when a bad loss asks to go back there."""
    config = job.config
    engine, place = build_engine(job)
    data, heldout = open_data(job)
    step = restore(job, engine, place)
    saver = Saver(job, Path(job.output) / CHECKPOINTS, place.tensor, stage=place.stage, writes=place.writes_stage)
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
                after_step(step)
        except BadLossError as bad:
            if rank == 0:
                say(f"{bad}: its loss is bad; back to the last checkpoint, and without these samples")
            return False
        finally:
            with watchdog.pause():
                saver.wait()
            records.close()
    dist.barrier()
    return True


def build_engine(job: Job) -> tuple[Any, Place]:
    """DeepSpeed's engine around this process's stage, with weights that depend on the seed alone."""
    import deepspeed

    config, layout = job.config, job.config.layout
    check_backend(config.attention, dropout=config.model.dropout, gpu=config.use_gpu)
    if not dist.is_initialized():
        raise RunError("torch.distributed is not initialized; start workers through train_jobs.launch")
    # its all-reduce for inference, which training never calls: it would be compiled first, and leave 66 MB of shared
    # memory behind for each process that ever ran
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    if config.zero >= 2:
        return _stageless_engine(job)
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints the topology and every layer from every rank
        module = build_pipeline(job.shape, layout, config.recompute, config.attention)
    grid = module.mpu()
    tensor = tensor_slice(module.topology(), layout)
    engine = _initialize(job, module, tensor, None)
    return engine, Place(grid.get_stage_id(), grid.get_data_parallel_id(), tensor, layout)


def _stageless_engine(job: Job) -> tuple[StagelessEngine, Place]:
    config, layout = job.config, job.config.layout
    topology = PipeModelDataParallelTopology(num_pp=1, num_mp=layout.tensor, num_dp=layout.data)
    tensor = tensor_slice(topology, layout)
    axes = Axes(topology, layout)
    module = StagelessModel(job.shape, tensor, config.recompute, config.attention)
    engine = _initialize(job, module, tensor, axes)
    place = Place(0, axes.get_data_parallel_rank(), tensor, layout)
    return StagelessEngine(engine, axes.get_data_parallel_group()), place


def _initialize(job: Job, module: nn.Module, tensor: TensorSlice, axes: Axes | None) -> Any:
    import deepspeed

    with first_weights(job) as weights:
        fill(module, weights, tensor)
    decayed = [held for name, held in own_parameters(module) if held.dim() > 1]
    plain = [held for name, held in own_parameters(module) if held.dim() == 1]
    groups = [{"params": held, **extra} for held, extra in ((decayed, {}), (plain, {"weight_decay": 0.0})) if held]
    settings = deepspeed_settings(job.config)
    engine, *_ = deepspeed.initialize(model=module, model_parameters=groups, config=settings, mpu=axes)
    if job.config.zero == 0:
        engine.clip_fp32_gradients = lambda: clip_gradients(engine, tensor)
    return engine


@contextlib.contextmanager
def first_weights(job: Job) -> Iterator[Source]:
    """Fresh weights, or those of a model folder; ids that its vocabulary lacks begin as the mean of the others."""
    if not job.initial:
        yield Weights(Fresh(job.shape, job.config.seed), job.shape)
        return
    with Files(weight_files(job.initial)) as files:
        yield Weights(files, job.shape)


def open_data(job: Job) -> tuple[TokenDataset, dict[str, TokenDataset]]:
    """Training samples, rearranged by fill-in-the-middle, and held-out ones as they are: all under "", groups by name.

    Raises:
        UserError: `weights` names no group of the tokens.
    """
    config, context = job.config, job.config.length
    tokenizer = load_tokenizer(job.tokenizer)
    shards = [TokenShard(Path(stem), job.dtype) for stem in job.train]
    parts = weighted_parts(shards, config.weights, context) if config.weights else [Part(tuple(shards))]
    data = TokenDataset(parts, context=context, seed=config.seed, tokenizer=tokenizer, fim=config.fim)
    groups: dict[str, list[TokenShard]] = {}
    for stem in job.heldout:
        shard = TokenShard(Path(stem), job.dtype)
        if len(shard.tokens) > context:
            groups.setdefault("", []).append(shard)
            if config.heldout_groups and group_of(shard.stem):
                groups.setdefault(group_of(shard.stem), []).append(shard)
    heldout = {
        name: TokenDataset([Part(tuple(kept))], context=context, seed=config.seed)
        for name, kept in sorted(groups.items())
    }
    return data, heldout


def batches(data: TokenDataset, first: int, job: Job, place: Place) -> Iterator[Batch]:
    """This data rank's micro batches of the global batch that begins with sample `first`.

    What a target counts is such that the mean over all micro batches of all ranks is the mean over the trained tokens
    of the global batch, however they are spread.
    """
    config = job.config
    rows = config.global_batch // config.layout.data
    start = first + place.data * rows
    micro_batches = config.global_batch // config.micro_batch
    own = np.stack([data[start + n].tokens for n in range(rows)])
    trained = trained_targets(own, job.turns)
    if job.turns is None:
        total = config.global_batch * config.length
    else:
        others = (n for n in range(first, first + config.global_batch) if not start <= n < start + rows)
        elsewhere = sum(int(trained_targets(data[n].tokens[None], job.turns).sum()) for n in others)
        total = max(1, int(trained.sum()) + elsewhere)
    shares = trained.astype(np.float32) * (micro_batches / total)
    for at in range(0, rows, config.micro_batch):
        tokens = torch.from_numpy(own[at : at + config.micro_batch])
        counted = torch.from_numpy(shares[at : at + config.micro_batch])
        yield tokens[:, :-1].contiguous(), (tokens[:, 1:].contiguous(), counted)


def trained_targets(tokens: np.ndarray, turns: tuple[int, int] | None) -> np.ndarray:
    """Which of tokens[:, 1:] are trained on: [rows, context + 1] ids to [rows, context] booleans.

    With `turns` it is what comes after an opening id, up to and with the closing one. A turn that began before the
    window is not known to be one.
    """
    if turns is None:
        return np.ones((tokens.shape[0], tokens.shape[1] - 1), dtype=bool)
    positions = np.arange(tokens.shape[1])
    opened, closed = (
        np.maximum.accumulate(np.where(tokens == number, positions, -1), axis=1)[:, :-1] for number in turns
    )
    return np.asarray(opened > closed)


def train_step(job: Job, engine: Any, place: Place, data: TokenDataset, step: int) -> float:
    """One update; returns the global batch's mean loss. Everything random follows from (seed, step, place)."""
    config = job.config
    rate = learning_rate(config.optimizer, step, config.steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    torch.manual_seed((config.seed * 1_000_003 + step) * 4099 + place.stage * 64 + place.data)
    iterator = batches(data, step * config.global_batch, job, place) if place.holds_data else None
    return float(engine.train_batch(data_iter=iterator))


def heldout_loss(job: Job, engine: Any, place: Place, data: TokenDataset) -> float:
    """Mean loss in nats per token over the first held-out windows."""
    rounds = max(1, job.config.heldout_sequences // job.config.global_batch)
    total = 0.0
    for number in range(rounds):
        iterator = batches(data, number * job.config.global_batch, job, place) if place.holds_data else None
        total += float(engine.eval_batch(data_iter=iterator))
    engine.train()
    return total / rounds


def restore(job: Job, engine: Any, place: Place) -> int:
    """Go on from the newest complete checkpoint; returns the number of steps that are done."""
    folder = Path(job.output) / CHECKPOINTS
    if dist.get_rank() == 0:
        checkpoint.remove_unfinished(folder)
    dist.barrier()
    found = checkpoint.latest(folder)
    if found is None:
        return 0
    return load(engine, found, place)


def load(engine: Any, source: Path, place: Place) -> int:
    """Put a checkpoint of any layout into the engine; returns the number of steps that are done. A collective call."""
    position = checkpoint.verified(source, engine.device if dist.get_backend() == "nccl" else None)
    with checkpoint.opened(source) as tensors:
        checkpoint.restore(engine, tensors, place.tensor, updates=position["updates"])
    return int(position["step"])


def export(job: Job) -> None:
    """Write the model folder from the last checkpoint."""
    from train_jobs.exporting import export_checkpoint

    found = checkpoint.latest(Path(job.output) / CHECKPOINTS)
    assert found is not None
    export_checkpoint(found, Path(job.output) / "model", job.shape, job.tokenizer)
