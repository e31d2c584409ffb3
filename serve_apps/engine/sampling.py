"""Choosing a token from logits; the random number depends on (seed, position) alone, so company changes nothing."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from serve_apps.engine.request import Sampling


@dataclass(frozen=True)
class Choice:
    """A token and its log probability under the unmodified model."""

    token: int
    logprob: float


def choose(logits: Tensor, sampling: Sampling, position: int) -> Choice:
    """A token from [vocabulary] logits.

    Raises:
        FloatingPointError: the logits are not finite.
    """
    if not torch.isfinite(logits).all():
        raise FloatingPointError("the model's logits are not finite")
    logprobs = logits.log_softmax(-1)
    token = int(logits.argmax()) if sampling.temperature == 0 else _sample(logits, sampling, position)
    return Choice(token, float(logprobs[token]))


def _sample(logits: Tensor, sampling: Sampling, position: int) -> int:
    values, order = torch.sort(logits.double() / sampling.temperature, descending=True, stable=True)
    if sampling.top_k > 0:
        values, order = values[: sampling.top_k], order[: sampling.top_k]
    cumulative = values.softmax(-1).cumsum(-1)
    # the smallest set whose mass reaches top_p, at least one token
    kept = min(int((cumulative < sampling.top_p).sum()) + 1, len(values))
    draw = np.random.default_rng((sampling.seed, position)).random() * float(cumulative[kept - 1])
    place = min(int(torch.searchsorted(cumulative[:kept], draw, right=True)), kept - 1)
    return int(order[place])
