"""Choosing a token from logits; the random number depends on (seed, position) alone, so company changes nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from serve_apps.engine.pieces import Scores
from serve_apps.engine.request import Sampling, Scored

Array = np.ndarray[Any, Any]
COLD = 1e-5  # temperatures below are greedy: logits over them have no finite exponential
LIKELY = 1024  # top_p looks at so many of the likeliest tokens before it sorts all


def choose(
    scores: Scores,
    row: int,
    sampling: Sampling,
    prompt: int,
    ids: Sequence[int],
    allowed: Array | None = None,
    ends: frozenset[int] = frozenset(),
) -> Scored:
    """The token after `ids`, of which the first `prompt` were given.

    `allowed` is bool [vocabulary] where a grammar leaves tokens out; `ends` are left out before `min_tokens`.

    Raises:
        FloatingPointError: the logits are not finite.
    """
    if not np.isfinite(scores.log_total[row]):
        raise FloatingPointError("the model's logits are not finite")
    early = len(ids) - prompt < sampling.min_tokens
    changed = sampling.penalized or sampling.bias or early or allowed is not None
    greedy = sampling.temperature < COLD
    if greedy and not changed:
        return scored(scores, row, int(scores.best[row]), sampling.top_logprobs)
    logits = scores.logits[row]
    if changed:
        logits = _penalized(logits, sampling, prompt, ids) if sampling.penalized else logits.astype(np.float64)
        logits = _bounded(logits, sampling, sorted(ends | sampling.stop_ids) if early else [], allowed)
    token = int(logits.argmax()) if greedy else _sample(logits, sampling, len(ids) - prompt)
    return scored(scores, row, token, sampling.top_logprobs)


def scored(scores: Scores, row: int, token: int, top: int) -> Scored:
    """A token with its log probability, and the `top` likeliest beside it."""
    logits, total = scores.logits[row], float(scores.log_total[row])
    likeliest = _largest(logits, top) if top else ()
    return Scored(token, float(logits[token]) - total, tuple((int(t), float(logits[t]) - total) for t in likeliest))


def _bounded(logits: Array, sampling: Sampling, forbidden: list[int], allowed: Array | None) -> Array:
    """The logits, in place, with biases, and without what is forbidden or not allowed."""
    for token, bias in sampling.bias:
        logits[token] += bias
    if allowed is not None:
        logits[~allowed] = -np.inf
    kept = logits[forbidden]
    logits[forbidden] = -np.inf
    if not np.isfinite(logits.max()):
        logits[forbidden] = kept  # a grammar that has come to its end goes before min_tokens
    return logits


def _penalized(logits: Array, sampling: Sampling, prompt: int, ids: Sequence[int]) -> Array:
    changed = logits.astype(np.float64)
    if sampling.repetition_penalty != 1:
        seen = np.unique(np.asarray(ids[-sampling.penalty_window :] if sampling.penalty_window else ids))
        at = changed[seen]
        changed[seen] = np.where(at > 0, at / sampling.repetition_penalty, at * sampling.repetition_penalty)
    answered, counts = np.unique(np.asarray(ids[prompt:], np.int64), return_counts=True)
    changed[answered] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    return changed


def _largest(logits: Array, count: int) -> Array:
    """Ids of the `count` largest, likeliest first, the lower id first among equals."""
    if count < len(logits):
        least = logits[np.argpartition(logits, -count)[-count:]].min()
        found = np.flatnonzero(logits >= least)
    else:
        found = np.arange(len(logits))
    return found[np.argsort(-logits[found], kind="stable")][:count]


def _typical(weights: Array, share: float) -> Array:
    """The weights of the tokens whose surprise is nearest to what is expected, up to `share` of the mass; others 0.

    (C. Meister et al., Locally Typical Sampling, 2023.)
    """
    chances = weights / weights.sum()
    surprise = -np.log(np.maximum(chances, 1e-300))
    order = np.argsort(np.abs(surprise - (chances * surprise).sum()), kind="stable")
    kept = order[: int(np.searchsorted(chances[order].cumsum(), share)) + 1]
    left = np.zeros_like(weights)
    left[kept] = weights[kept]
    return left


def _sample(logits: Array, sampling: Sampling, position: int) -> int:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / sampling.temperature)
    if sampling.typical_p < 1:
        weights = _typical(weights, sampling.typical_p)
        logits = np.where(weights > 0, logits, -np.inf)
    if sampling.min_p:
        weights = np.where(weights >= sampling.min_p * weights.max(), weights, 0)
        logits = np.where(weights > 0, logits, -np.inf)
    if sampling.top_k:
        order = _largest(logits, sampling.top_k)
    elif sampling.top_p < 1:
        order = _largest(logits, LIKELY)
        if weights[order].sum() < sampling.top_p * weights.sum():
            order = _largest(logits, len(logits))
    else:
        order = np.arange(len(logits))
    order = order[weights[order] > 0]
    # top_p is of the mass that top_k leaves; without top_k, of all
    mass = weights[order].sum() if sampling.top_k else weights.sum()
    cumulative = weights[order].cumsum()
    # the smallest set whose mass reaches top_p, at least one token
    kept = min(int(np.searchsorted(cumulative, sampling.top_p * mass)) + 1, len(order))
    draw = np.random.default_rng((sampling.seed, position)).random() * cumulative[kept - 1]
    return int(order[min(int(np.searchsorted(cumulative[:kept], draw, side="right")), kept - 1)])
