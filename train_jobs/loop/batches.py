"""What the model is fed: samples by number, cut into the micro batches of each data rank."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from starloom.errors import RunError
from starloom.tokenizer import load_tokenizer
from starloom.tokens import ShardGroup, TokenDataset, TokenShard, weighted_groups
from starloom.tokens.mixture import group_of
from train_jobs.job import Job
from train_jobs.loop.place import Place
from train_jobs.parallel.stageless import Batch


def open_data(job: Job) -> tuple[TokenDataset, dict[str, TokenDataset]]:
    """Training samples, rearranged by fill-in-the-middle, and held-out ones as they are: all under "", groups by name.

    Raises:
        UserError: `weights` names no group of the tokens.
    """
    config, context = job.config, job.config.length
    tokenizer = load_tokenizer(job.tokenizer)
    shards = [TokenShard(Path(stem), job.dtype) for stem in job.train]
    data = TokenDataset(
        weighted_groups(shards, config.weights, context),
        context=context,
        seed=config.seed,
        tokenizer=tokenizer,
        fim=config.fim,
    )
    groups: dict[str, list[TokenShard]] = {}
    for stem in job.heldout:
        shard = TokenShard(Path(stem), job.dtype)
        groups.setdefault("", []).append(shard)
        if config.heldout_groups and group_of(shard.stem):
            groups.setdefault(group_of(shard.stem), []).append(shard)
    heldout = {
        name: TokenDataset([ShardGroup(tuple(kept))], context=context, seed=config.seed)
        for name, kept in sorted(groups.items())
        if sum(shard.size for shard in kept) > context
    }
    return data, heldout


def batches(data: TokenDataset, first: int, job: Job, place: Place, pieces: int = 1) -> Iterator[Batch]:
    """This data rank's micro batches of the global batch that begins with sample `first`.

    With `pieces` each sample's place is taken by so many shorter ones.

    What a target counts is such that the mean over all micro batches of all ranks is the mean over the trained tokens
    of the global batch, however they are spread.

    Raises:
        RunError: an id that the model does not have.
    """
    config, data = job.config, data.shorter(pieces)
    everything = config.global_batch * pieces
    rows = everything // config.layout.data
    first *= pieces
    start = first + place.data * rows
    micro_batches = config.global_batch // config.micro_batch
    own = np.stack([data[start + n].tokens for n in range(rows)])
    if own.max() >= job.vocabulary:
        raise RunError(f"the tokens hold the id {own.max()}, the model has {job.vocabulary}; pack with its tokenizer")
    trained = trained_targets(own, job.turns)
    if job.turns is None:
        total = config.global_batch * config.length
    else:
        others = (n for n in range(first, first + everything) if not start <= n < start + rows)
        elsewhere = sum(int(trained_targets(data[n].tokens[None], job.turns).sum()) for n in others)
        total = max(1, int(trained.sum()) + elsewhere)
    shares = trained.astype(np.float32) * (micro_batches / total)
    size = config.micro_batch * pieces
    for at in range(0, rows, size):
        tokens, counted = torch.from_numpy(own[at : at + size]), torch.from_numpy(shares[at : at + size])
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
