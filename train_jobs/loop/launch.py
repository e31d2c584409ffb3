"""Ray at the edge of training: start the workers, restart them from the last checkpoint when one is lost."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from starloom import cluster, storage
from starloom.artifact import ArtifactWriter
from starloom.config import validate
from starloom.errors import RunError, StarloomError, StorageError, UserError, one_line
from starloom.fetched import local_copy
from starloom.kinds import Model, Tokenizer, Tokens
from starloom.step import Outcome, StepContext
from starloom.tokens import TokenShard
from starloom.tokens.mixture import mixture, mixture_lines
from train_jobs.checkpoints.published import last_step
from train_jobs.config import PretrainConfig
from train_jobs.job import Job
from train_jobs.layout import Layout
from train_jobs.loop.elastic import PATIENCE_SECONDS, POLL_SECONDS, ask_for, fitting, places, watching
from train_jobs.loop.schedule import oddities
from train_jobs.planning.preflight import preflight

RAY_STATE: Final = ".ray"
START_TIMEOUT: Final = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def pretrain(config: PretrainConfig, context: StepContext) -> Outcome:
    """Run the step; see `train_jobs.pretrain`."""
    job = job_of(config, context)
    config = job.config
    config.layout.check(job.shape, config.global_batch, config.micro_batch)
    shape = job.shape
    layout = config.layout
    context.say(
        f"{shape.parameters / 1e6:,.1f} M parameters; pipeline {layout.pipeline} × tensor {layout.tensor} "
        f"× data {layout.data}; {config.steps:,} steps of {config.global_batch * config.length:,} tokens"
    )
    announce(job, context)
    launch(job, context.name)
    details = {"parameters": shape.parameters, "shape": shape.model_dump(mode="json"), "steps": config.steps}
    if job.initial:
        details["initial"] = origin_of(job, job.initial)
    tokens = config.steps * config.global_batch * config.length
    return Outcome(
        rows_in=config.steps * config.global_batch, rows_out=config.steps, details={**details, "tokens": tokens}
    )


def job_of(config: PretrainConfig, context: StepContext) -> Job:
    """The job of a step: its token shards, tokenizer and output folder.

    Raises:
        UserError: the inputs do not go together, or no shard is as long as a sample.
    """
    tokens, tokenizer = Tokens(context.only(Tokens.kind)), Tokenizer(context.only(Tokenizer.kind))
    initial = _initial(config, context)
    if config.lora and not initial:
        raise UserError("lora: an adapter changes a model; set initial_model, or name a model among needs")
    config = _with_shape(config, initial, tokens.vocabulary)
    if tokens.tokenizer != tokenizer.artifact.fingerprint:
        raise UserError(
            f"needs: {tokens.artifact.name} was packed with another tokenizer than {tokenizer.artifact.name}; "
            "name that one"
        )
    train = tokens.stems("train")
    if sum(counts.tokens for name, counts in tokens.shards().items() if name.startswith("train/")) <= config.length:
        raise UserError(f"{config.length} tokens a sample: the shards together are not that long; lower it or add data")
    return Job(
        config=config,
        train=train,
        heldout=tokens.stems("heldout"),
        dtype=tokens.dtype,
        vocabulary=tokens.vocabulary,
        tokenizer=str(tokenizer.path()),
        output=working_folder(context),
        initial=initial,
        **on_object_store(
            context,
            (tokens.artifact.local(), tokens.artifact.folder),
            (tokenizer.artifact.local(), tokenizer.artifact.folder),
            *_origin_of_initial(config, context, initial),
        ),
    )


def working_folder(context: StepContext) -> str:
    """Where training writes: the output itself, or what a node has of one that is at a URL."""
    output = context.output
    return str(output.staging() if storage.is_remote(output.folder) else output.local_folder(""))


def on_object_store(context: StepContext, *copied: tuple[Path, str]) -> dict[str, Any]:
    """The fields of a `Job` whose output is at a URL; `copied` are local paths and the locations that they are of."""
    if not storage.is_remote(context.output.folder):
        return {}
    origins = tuple((str(path), location) for path, location in copied if storage.is_remote(location))
    return {"published": context.output.folder, "origins": origins}


def origin_of(job: Job, path: str) -> str:
    """The URL that a local path was copied from; the whole path where it was not."""
    return dict(job.origins).get(path) or str(Path(path).resolve())


def _origin_of_initial(config: PretrainConfig, context: StepContext, initial: str) -> list[tuple[Path, str]]:
    model = context.optional(Model.kind)
    return [(Path(initial), model.path(Model.FOLDER) if model else config.initial_model)] if initial else []


def announce(job: Job, context: StepContext) -> None:
    """Say what the run sees of each language or source, and what is odd about its length.

    Raises:
        UserError: `weights` leave nothing to train on.
    """
    config = job.config
    trained = config.steps * config.global_batch * config.length
    shards = [TokenShard(Path(stem), job.dtype) for stem in job.train]
    portions = mixture(shards, config.weights, config.length)
    for line in mixture_lines(portions, trained):
        context.say(line)
    inside = sum(portion.tokens for portion in portions if portion.weight)
    if not inside:
        raise UserError("weights: every group is left out; raise one of them, or lower the tokens of a sample")
    for line in oddities(config.optimizer, config.steps, trained / inside):
        context.say(line)


def _initial(config: PretrainConfig, context: StepContext) -> str:
    """The model folder that training starts from, on this machine, or nothing."""
    model = context.optional(Model.kind)
    if model and config.initial_model:
        raise UserError("initial_model: a folder is named here and a model among needs; name one of them")
    if model:
        return str(Model(model).folder())
    return str(local_copy(config.initial_model)) if config.initial_model else ""


def _with_shape(config: PretrainConfig, initial: str, vocabulary: int) -> PretrainConfig:
    """The configuration with the shape of what it starts from, where it names none; else both must be the same."""
    from starloom.model.adapter import is_adapter
    from starloom.model.folder import check_names, read_config  # brings torch

    if not initial:
        if config.length > config.model.context:
            raise UserError(f"sequence = {config.length} is more than model.context = {config.model.context}")
        return config
    if is_adapter(initial):
        raise UserError(f"initial_model: {initial} is an adapter; name its base model, or merge the adapter first")
    found = read_config(initial)
    check_names(initial, found)
    if not config.shaped:
        shape = {**found.model_dump(exclude={"vocabulary", "norm_epsilon"}), "dropout": 0.0}
        config = validate(PretrainConfig, {**config.model_dump(), "model": shape}, where=f"initial_model {initial}")
    wanted = config.shape(vocabulary)
    for field in ("layers", "hidden", "heads", "context", "vocabulary", "activation"):
        if getattr(found, field) != getattr(wanted, field):
            raise UserError(
                f"initial_model: {initial} has {field} = {getattr(found, field)}, this run has "
                f"{getattr(wanted, field)}; set model.{field} to that, and pack with its tokenizer"
            )
    return config


def launch(job: Job, name: str) -> None:
    """Run `work` in `layout.ranks` Ray Train workers, again from the last checkpoint when one is lost.

    A run of weeks loses many workers: failures are counted anew whenever a checkpoint was reached since the last one.
    What a worker tells about the input or the data ends the run at once: it would be the same again.

    Raises:
        StarloomError: what a worker told.
        UserError: the cluster is too small.
        RunError: `max_failures` attempts came no further.
    """
    from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

    cluster.connect()
    possible = fitting(job, places(job.config)) if job.config.min_data else None
    least = _with_layout(job, possible) if possible else job
    _check_size(least)
    preflight(least)
    failures, reached = 0, last_step(job)
    layout = job.config.layout
    while True:
        sized = _sized(job, layout, name)
        layout = sized.config.layout
        try:
            with watching(job, layout):
                _attempt(sized, name)
            if last_step(job) == job.config.steps:
                break
            reached = last_step(job)
        except TrainingFailedError as error:
            changed = job.config.min_data and fitting(job, places(job.config)) != layout
            if changed and isinstance(error, ControllerError):
                print(f"{name}: the workers of a node that was gone did not start", flush=True)
                continue
            told = _told(error)
            if told is not None and not isinstance(told, StorageError):
                raise told from None
            failures = 1 if last_step(job) > reached else failures + 1
            reached = last_step(job)
            cause = one_line(told or _last_line(error))
            if failures > job.config.max_failures:
                raise RunError(
                    f"{failures} attempts in a row ended after step {reached:,}; the last one: {cause}; set "
                    "max_failures higher for more of them"
                ) from error
            print(f"{name}: {cause}; on from step {reached:,}, attempt {failures + 1}", flush=True)
    storage.remove_below(storage.join(job.published or job.output, RAY_STATE))


def _sized(job: Job, before: Layout, name: str) -> Job:
    """The job with as many data ranks as the nodes that are alive have places for, where `min_data` allows fewer."""
    config = job.config
    if not config.min_data:
        return job
    deadline = time.monotonic() + cluster.patience(PATIENCE_SECONDS)
    while (layout := fitting(job, places(config))) is None:
        ask_for(config)
        if time.monotonic() > deadline:
            raise RunError(
                f"the cluster has {places(config)} places for workers, and no more came, min_data = "
                f"{config.min_data} needs more; add nodes and run again"
            )
        time.sleep(POLL_SECONDS)
    ask_for(None)
    if layout.data < config.layout.data:
        print(f"{name}: {layout.data} of {config.layout.data} data ranks, until nodes come", flush=True)
    elif before.data < layout.data:
        print(f"{name}: all {layout.data} data ranks again", flush=True)
    return _with_layout(job, layout)


def _with_layout(job: Job, layout: Layout) -> Job:
    return replace(job, config=job.config.model_copy(update={"layout": layout}))


def _told(error: Any) -> StarloomError | None:
    """What a worker raised for people to read, of the first rank that did."""
    for _, failure in sorted(getattr(error, "worker_failures", {}).items()):
        cause = getattr(failure, "_base_exc", failure)  # Ray wraps it with its traceback
        if isinstance(cause, StarloomError):
            return cause
    return None


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1]


def _check_size(job: Job) -> None:
    config = job.config
    needed = config.layout.ranks * config.cpus_per_worker
    available = cluster.expected("CPU")
    if not config.use_gpu and needed > available:
        raise UserError(
            f"layout: {config.layout.ranks} workers × cpus_per_worker = {config.cpus_per_worker:g} need "
            f"{needed:g} CPUs, the cluster has {available:g}; lower cpus_per_worker or the layout"
        )


def _attempt(job: Job, name: str) -> None:
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config = job.config
    resources = {"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})}
    environment = {"OMP_NUM_THREADS": str(config.threads_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    environment["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # it logs every line a second time
    if not config.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    state = storage.join(job.published or job.output, RAY_STATE)
    filesystem, path = storage.filesystem_of(state)
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=config.layout.ranks, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        run_config=RunConfig(
            name=f"{name}-{Path(job.output).name}",
            storage_path=path,
            storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)) if job.published else None,
            # `launch` counts; and with `min_data` it asks anew how many workers there can be
            failure_config=FailureConfig(  # type: ignore[call-arg]  # in Train v2
                max_failures=0, controller_failure_limit=0 if config.min_data else -1
            ),
            worker_runtime_env={"env_vars": environment},
        ),
    )
    if cluster.groups_to_come():  # nodes take minutes to come
        os.environ.setdefault(START_TIMEOUT, str(cluster.GROWTH_SECONDS))
    trainer.fit()


def train_loop(settings: dict[str, Any]) -> None:
    """What Ray Train calls in each worker."""
    from train_jobs.loop.worker import work

    job: Job = settings["job"]
    if not job.published:
        work(job)
        return
    own = ArtifactWriter(job.published).staging()
    work(job.here(str(own)))
    shutil.rmtree(own, ignore_errors=True)  # the store has it all
