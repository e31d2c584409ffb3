"""DeepSpeed's engine around this process's part of the model: built, restored, stepped, measured."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import nn

from starloom.errors import RunError
from starloom.kinds import Model
from starloom.model.attention import check_backend
from starloom.model.folder import weight_files
from starloom.tokens import TokenDataset
from starloom.tokens.permutation import mix
from train_jobs.checkpoints import store
from train_jobs.job import Job
from train_jobs.loop.batches import batches
from train_jobs.loop.place import Place
from train_jobs.loop.schedule import learning_rate
from train_jobs.parallel.clipping import clip_gradients
from train_jobs.parallel.deepspeed_internals import before_forward, replace_clipping, without_inference_collectives
from train_jobs.parallel.deepspeed_settings import deepspeed_settings
from train_jobs.parallel.draws import Draws
from train_jobs.parallel.layers import TensorSlice
from train_jobs.parallel.pipeline import build_pipeline, fill, own_parameters, tensor_slice
from train_jobs.parallel.stageless import Axes, StagelessEngine, StagelessModel
from train_jobs.parallel.weights import Files, Fresh, Source, Weights


def build_engine(job: Job) -> tuple[Any, Place]:
    """DeepSpeed's engine around this process's stage, with weights that depend on the seed alone.

    Raises:
        RunError: this process was not started as a worker.
    """
    import deepspeed

    config, layout = job.config, job.config.layout
    check_backend(config.attention, dropout=config.model.dropout, gpu=config.use_gpu)
    if not dist.is_initialized():
        raise RunError("torch.distributed is not initialized; start workers through train_jobs.loop.launch")
    without_inference_collectives()
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    draws = Draws(mix(config.seed), config.micro_batch)
    if config.zero >= 2:
        return _stageless_engine(job, draws)
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints the topology and every layer from every rank
        module, output = build_pipeline(job.shape, layout, config.recompute, config.attention, draws)
    grid = module.mpu()
    tensor = tensor_slice(module.topology(), layout)
    engine = _initialize(job, module, tensor, None)
    before_forward(engine, draws.advance, output.take)
    return engine, Place(grid.get_stage_id(), grid.get_data_parallel_id(), tensor, layout, draws)


def _stageless_engine(job: Job, draws: Draws) -> tuple[StagelessEngine, Place]:
    config, layout = job.config, job.config.layout
    topology = PipeModelDataParallelTopology(num_pp=1, num_mp=layout.tensor, num_dp=layout.data)
    tensor = tensor_slice(topology, layout)
    axes = Axes(topology, layout)
    module = StagelessModel(job.shape, tensor, config.recompute, config.attention, draws)
    engine = _initialize(job, module, tensor, axes)
    place = Place(0, axes.get_data_parallel_rank(), tensor, layout, draws)
    return StagelessEngine(engine, axes.get_data_parallel_group(), draws), place


def _initialize(job: Job, module: nn.Module, tensor: TensorSlice, axes: Axes | None) -> Any:
    with first_weights(job) as weights:
        fill(module, weights, tensor)
        engine = _wrapped(job, module, axes)
        if job.config.precision == "bf16":  # DeepSpeed makes the masters of what is rounded already
            store.put_masters(engine, weights, tensor)
    if job.config.zero == 0:
        replace_clipping(engine, lambda: clip_gradients(engine, tensor))
    return engine


def _wrapped(job: Job, module: nn.Module, axes: Axes | None) -> Any:
    import deepspeed

    decayed = [held for name, held in own_parameters(module) if held.dim() > 1]
    plain = [held for name, held in own_parameters(module) if held.dim() == 1]
    groups = [{"params": held, **extra} for held, extra in ((decayed, {}), (plain, {"weight_decay": 0.0})) if held]
    settings = deepspeed_settings(job.config)
    return deepspeed.initialize(model=module, model_parameters=groups, config=settings, mpu=axes)[0]


@contextlib.contextmanager
def first_weights(job: Job) -> Iterator[Source]:
    """Fresh weights, or those of a model folder; ids that its vocabulary lacks begin as the mean of the others."""
    if not job.initial:
        yield Weights(Fresh(job.shape, job.config.seed), job.shape)
        return
    with Files(weight_files(job.initial)) as files:
        yield Weights(files, job.shape)


def restore(job: Job, engine: Any, place: Place) -> int:
    """Go on from the newest complete checkpoint; returns the number of steps that are done."""
    folder = Path(job.output) / Model.CHECKPOINTS
    if dist.get_rank() == 0:
        store.remove_unfinished(folder)
    dist.barrier()
    found = store.latest(folder)
    if found is None:
        return 0
    return load(engine, found, place)


def load(engine: Any, source: Path, place: Place) -> int:
    """Put a checkpoint of any layout into the engine; returns the number of steps that are done. A collective call."""
    position = store.verified(source, engine.device)
    with store.opened(source) as tensors:
        store.put_into(engine, tensors, place.tensor, updates=position["updates"])
    return int(position["step"])


def train_step(job: Job, engine: Any, place: Place, data: TokenDataset, step: int) -> float:
    """One update; returns the global batch's mean loss. Everything random follows from the seed and the samples."""
    config = job.config
    rate = learning_rate(config.optimizer, step, config.steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    place.draws.begin(step * config.global_batch + place.data * (config.global_batch // config.layout.data))
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
