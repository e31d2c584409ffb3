"""Ray at the edge of training: start the workers, restart them from the last checkpoint when one is lost."""

import shutil
from pathlib import Path
from typing import Any

from starloom import cluster
from starloom.errors import RunError, StarloomError, StorageError, UserError, one_line
from starloom.kinds import Model, Tokenizer, Tokens
from starloom.step import Outcome, StepContext
from starloom.tokens import TokenShard
from starloom.tokens.mixture import mixture, mixture_lines
from train_jobs.checkpoints.complete import complete
from train_jobs.config import PretrainConfig
from train_jobs.job import Job
from train_jobs.loop.schedule import oddities
from train_jobs.planning.preflight import preflight


def pretrain(config: PretrainConfig, context: StepContext) -> Outcome:
    """Run the step; see `train_jobs.pretrain`."""
    job = job_of(config, context)
    config.layout.check(job.shape, config.global_batch, config.micro_batch)
    shape = job.shape
    layout = config.layout
    context.say(
        f"{shape.parameters / 1e6:,.1f} M parameters; pipeline {layout.pipeline} × tensor {layout.tensor} "
        f"× data {layout.data}; {config.steps:,} steps of {config.global_batch * config.length:,} tokens"
    )
    announce(job, context)
    launch(job, context.name)
    context.output.publish(Model.FOLDER)
    context.output.publish(Model.CHECKPOINTS)
    details = {"parameters": shape.parameters, "shape": shape.model_dump(mode="json"), "steps": config.steps}
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
        output=str(context.output.local_folder("")),
        initial=_initial(config, context, tokens.vocabulary),
    )


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


def _initial(config: PretrainConfig, context: StepContext, vocabulary: int) -> str:
    """The model folder that training starts from, or nothing; its shape must be the configuration's."""
    from starloom.model.folder import check_names, read_config  # brings torch

    model = context.optional(Model.kind)
    if model and config.initial_model:
        raise UserError("initial_model: a folder is named here and a model among needs; name one of them")
    initial = str(Model(model).folder()) if model else config.initial_model
    if initial:
        found, wanted = read_config(initial), config.shape(vocabulary)
        check_names(initial, found)
        for field in ("layers", "hidden", "heads", "context", "vocabulary", "activation"):
            if getattr(found, field) != getattr(wanted, field):
                raise UserError(
                    f"initial_model: {initial} has {field} = {getattr(found, field)}, this run has "
                    f"{getattr(wanted, field)}; set model.{field} to that, and pack with its tokenizer"
                )
    return initial


def launch(job: Job, name: str) -> None:
    """Run `work` in `layout.ranks` Ray Train workers, again from the last checkpoint when one is lost.

    A run of weeks loses many workers: failures are counted anew whenever a checkpoint was reached since the last one.
    What a worker tells about the input or the data ends the run at once: it would be the same again.

    Raises:
        StarloomError: what a worker told.
        UserError: the cluster is too small.
        RunError: `max_failures` attempts came no further.
    """
    from ray.train.v2.api.exceptions import TrainingFailedError

    cluster.connect()
    _check_size(job)
    preflight(job)
    failures, reached = 0, _last_step(job)
    while True:
        try:
            _attempt(job, name)
            break
        except TrainingFailedError as error:
            told = _told(error)
            if told is not None and not isinstance(told, StorageError):
                raise told from None
            failures = 1 if _last_step(job) > reached else failures + 1
            reached = _last_step(job)
            cause = one_line(told or _last_line(error))
            if failures > job.config.max_failures:
                raise RunError(
                    f"{failures} attempts in a row ended after step {reached:,}; the last one: {cause}; set "
                    "max_failures higher for more of them"
                ) from error
            print(f"{name}: {cause}; on from step {reached:,}, attempt {failures + 1}", flush=True)
    shutil.rmtree(Path(job.output) / ".ray", ignore_errors=True)


def _last_step(job: Job) -> int:
    return max(complete(Path(job.output) / Model.CHECKPOINTS), default=0)


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
    import ray

    config = job.config
    needed = config.layout.ranks * config.cpus_per_worker
    available = ray.cluster_resources().get("CPU", 0)
    if not config.use_gpu and needed > available:
        raise UserError(
            f"layout: {config.layout.ranks} workers × cpus_per_worker = {config.cpus_per_worker:g} need "
            f"{needed:g} CPUs, the cluster has {available:g}; lower cpus_per_worker or the layout"
        )


def _attempt(job: Job, name: str) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config = job.config
    resources = {"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})}
    environment = {"OMP_NUM_THREADS": str(config.threads_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    environment["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # it logs every line a second time
    if not config.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    ray_state = Path(job.output) / ".ray"
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=config.layout.ranks, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        run_config=RunConfig(
            name=f"{name}-{Path(job.output).name}",
            storage_path=str(ray_state),
            failure_config=FailureConfig(max_failures=0),  # `launch` counts
            worker_runtime_env={"env_vars": environment},  # type: ignore[call-arg]  # in Train v2, which Ray 2.60 runs
        ),
    )
    trainer.fit()


def train_loop(settings: dict[str, Any]) -> None:
    """What Ray Train calls in each worker."""
    from train_jobs.loop.worker import work

    work(settings["job"])
