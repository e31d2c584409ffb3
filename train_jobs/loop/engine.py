"""DeepSpeed's engine around this process's part of the model: built, restored, stepped, measured."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import nn

from starloom.errors import RunError
from starloom.kinds import Model
from starloom.model.attention import check_backend
from starloom.model.folder import weight_files
from starloom.tokenizer import END_OF_TEXT, load_tokenizer
from starloom.tokens import TokenDataset
from starloom.tokens.permutation import mix
from train_jobs.checkpoints import store
from train_jobs.job import Job
from train_jobs.loop.batches import batches
from train_jobs.loop.place import Place
from train_jobs.loop.schedule import learning_rate
from train_jobs.parallel.clipping import clip_gradients
from train_jobs.parallel.deepspeed_internals import (
    before_forward,
    built,
    data_group,
    forget_shapes,
    replace_clipping,
    without_inference_collectives,
)
from train_jobs.parallel.deepspeed_settings import adam_options, deepspeed_settings
from train_jobs.parallel.documents import Documents
from train_jobs.parallel.draws import Draws
from train_jobs.parallel.layers import MicroBatch, TensorSlice
from train_jobs.parallel.muon import Muon, parameter_groups
from train_jobs.parallel.pipeline import build_pipeline, fill, freeze, tensor_slice, trained_parameters
from train_jobs.parallel.stageless import Axes, Batch, StagelessEngine, StagelessModel
from train_jobs.parallel.weights import Adapters, Files, Fresh, Source, Weights


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
    source = _micro_batches(job)
    if config.zero >= 2:
        return _stageless_engine(job, source)
    # DeepSpeed prints the topology and every layer from every rank
    with contextlib.redirect_stdout(io.StringIO()), built(deepspeed_settings(config), None):
        module, output = build_pipeline(
            job.shape,
            layout,
            config.recompute,
            config.attention,
            source,
            config.lora,
            config.compile,
            config.sequence_parallel,
        )
    grid = module.mpu()
    tensor = tensor_slice(module.topology(), layout)
    engine = _initialize(job, module, tensor, None)
    before_forward(engine, source.advance, output.take)
    return engine, Place(grid.get_stage_id(), grid.get_data_parallel_id(), tensor, layout, source)


def _micro_batches(job: Job) -> MicroBatch:
    draws = Draws(mix(job.config.seed), job.config.micro_batch)
    end = load_tokenizer(job.tokenizer).special(END_OF_TEXT) if job.config.document_masking else None
    return MicroBatch(draws, Documents(end))


def _stageless_engine(job: Job, source: MicroBatch) -> tuple[StagelessEngine, Place]:
    config, layout = job.config, job.config.layout
    topology = PipeModelDataParallelTopology(num_pp=1, num_mp=layout.tensor, num_dp=layout.data)
    tensor = tensor_slice(topology, layout, sequence=config.sequence_parallel)
    axes = Axes(topology, layout)
    module = StagelessModel(job.shape, tensor, config.recompute, config.attention, source, config.lora, config.compile)
    engine = _initialize(job, module, tensor, axes)
    place = Place(0, axes.get_data_parallel_rank(), tensor, layout, source)
    return StagelessEngine(engine, axes.get_data_parallel_group(), source), place


def _initialize(job: Job, module: nn.Module, tensor: TensorSlice, axes: Axes | None) -> Any:
    if job.config.lora:
        freeze(module)
    with first_weights(job) as weights:
        fill(module, weights, tensor)
        engine = _wrapped(job, module, tensor, axes)
        if job.config.precision == "bf16":  # DeepSpeed makes the masters of what is rounded already
            store.put_masters(engine, weights, tensor)
    if job.config.zero == 0:
        replace_clipping(engine, lambda: clip_gradients(engine, tensor))
    return engine


def _wrapped(job: Job, module: nn.Module, tensor: TensorSlice, axes: Axes | None) -> Any:
    import deepspeed

    settings, groups = (
        deepspeed_settings(job.config),
        parameter_groups(trained_parameters(module), job.config.optimizer),
    )
    if job.config.offload:
        return deepspeed.initialize(model=module, model_parameters=groups, config=settings, mpu=axes)[0]
    options = adam_options(job.config)
    if job.config.optimizer.name == "adamw":
        optimizer = torch.optim.AdamW(groups, fused=True, **options)
        return deepspeed.initialize(model=module, optimizer=optimizer, config=settings, mpu=axes)[0]
    muon = Muon(groups, momentum=job.config.optimizer.momentum, fused=True, **options)
    engine = deepspeed.initialize(model=module, optimizer=muon, config=settings, mpu=axes)[0]
    muon.spread(data_group(engine), tensor)
    return engine


@contextlib.contextmanager
def first_weights(job: Job) -> Iterator[Source]:
    """Fresh weights, or those of a model folder; ids that its vocabulary lacks begin as the mean of the others."""
    if not job.initial:
        yield Weights(Fresh(job.shape, job.config.seed), job.shape)
        return
    with Files(weight_files(job.initial)) as files:
        weights = Weights(files, job.shape)
        lora = job.config.lora
        yield Adapters(weights, job.shape, lora, job.config.seed) if lora else weights


def restore(job: Job, engine: Any, place: Place) -> int:
    """Go on from the newest complete checkpoint; returns the number of steps that are done."""
    folder = Path(job.output) / Model.CHECKPOINTS
    if dist.get_rank() == 0 or job.published:  # then a node has a folder of its own
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
        group["lr"] = rate * group["scale"]
    pieces = config.pieces(step)
    own = step * config.global_batch + place.data * (config.global_batch // config.layout.data)
    place.source.draws.begin(own, pieces)
    iterator = _announced(job, engine, place, data, step * config.global_batch, pieces)
    return float(engine.train_batch(data_iter=iterator))


def _announced(
    job: Job, engine: Any, place: Place, data: TokenDataset, first: int, pieces: int = 1
) -> Iterator[Batch] | None:
    """The micro batches of a global batch, for the ranks that are handed them; what layers want of them is told."""
    if job.config.length_warmup:
        forget_shapes(engine)
    if place.source.documents.end is not None:
        place.source.documents.begin(tokens.to(engine.device) for tokens, _ in batches(data, first, job, place, pieces))
    return batches(data, first, job, place, pieces) if place.holds_data else None


def heldout_loss(job: Job, engine: Any, place: Place, data: TokenDataset) -> float:
    """Mean loss in nats per token over the first held-out windows."""
    rounds = max(1, job.config.heldout_sequences // job.config.global_batch)
    total = 0.0
    for number in range(rounds):
        iterator = _announced(job, engine, place, data, number * job.config.global_batch)
        total += float(engine.eval_batch(data_iter=iterator))
    engine.train()
    return total / rounds
