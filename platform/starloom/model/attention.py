"""Causal multi-query attention by the backend that a configuration names. K and V are never expanded in memory."""

import importlib
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from starloom.errors import UserError

Backend = Literal["sdpa", "flash_attn", "flash_attn_4"]
_FUNCTIONS: dict[Backend, Any] = {}
PACKAGES = {"flash_attn": ("flash_attn", "flash-attn"), "flash_attn_4": ("flash_attn.cute", "flash-attn-4")}


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float,
    backend: Backend = "sdpa",
    mask: Tensor | None = None,
) -> Tensor:
    """Causal attention of [batch, heads, sequence, dim] queries with one [batch, 1, sequence, dim] K and V head.

    `sdpa` is PyTorch's own; `flash_attn` is Dao's FlashAttention 2, `flash_attn_4` its CuTe version for Hopper and
    newer. The result has the shape of the queries. A `mask`, bool [batch, 1, sequence, sequence] with what each
    position may attend to, takes the place of the causal one.

    Raises:
        UserError: there is a mask, and the backend is not `sdpa`.
    """
    if backend == "sdpa":
        masking: dict[str, Any] = {"is_causal": True} if mask is None else {"attn_mask": mask}
        if query.is_cuda:
            return F.scaled_dot_product_attention(
                query, key, value, dropout_p=dropout, enable_gqa=query.shape[1] > 1, **masking
            )
        expanded = (-1, query.shape[1], -1, -1)
        # expand is a view with stride 0: the shared head is not copied
        return F.scaled_dot_product_attention(
            query, key.expand(expanded), value.expand(expanded), dropout_p=dropout, **masking
        )
    if mask is not None:
        raise UserError(f"attention: {backend} takes no mask; use 'sdpa' for masking by document")
    # these packages take [batch, sequence, heads, dim], and one K and V head as it is
    arguments = [part.transpose(1, 2) for part in (query, key, value)]
    options: dict[str, Any] = {"causal": True, **({"dropout_p": dropout} if backend == "flash_attn" else {})}
    mixed = _function(backend)(*arguments, **options)
    mixed = mixed[0] if isinstance(mixed, tuple) else mixed  # FlashAttention 4 gives the log sums as well
    out: Tensor = mixed.transpose(1, 2)
    return out


def check_backend(backend: Backend, *, dropout: float, gpu: bool) -> None:
    """Raise `UserError` when this process cannot use the backend."""
    if backend == "sdpa":
        return
    package = PACKAGES[backend][1]
    if not gpu:
        raise UserError(f"attention: {backend} needs a GPU; use attention = 'sdpa' on a CPU")
    if not _has_function(backend):
        raise UserError(f"attention: {backend} needs the package {package}, which is not installed; or use 'sdpa'")
    if backend == "flash_attn_4" and dropout > 0:
        raise UserError(f"attention: flash_attn_4 has no dropout, model.dropout = {dropout}; use flash_attn or sdpa")


def usable_backends(*, dropout: float) -> list[Backend]:
    """Those that `check_backend` lets pass here."""
    found: list[Backend] = []
    for backend in get_args(Backend):
        try:
            check_backend(backend, dropout=dropout, gpu=torch.cuda.is_available())
        except UserError:
            continue  # the question is which there are, not why others are not
        found.append(backend)
    return found


def _has_function(backend: Backend) -> bool:
    """Whether the function itself is there: FlashAttention 4 makes a folder `flash_attn` with nothing of version 2."""
    try:
        _function(backend)
    except (ImportError, AttributeError):
        return False
    return True


def _function(backend: Backend) -> Any:
    if backend not in _FUNCTIONS:  # once: a compiled block sees the function, and no import
        _FUNCTIONS[backend] = importlib.import_module(PACKAGES[backend][0]).flash_attn_func
    return _FUNCTIONS[backend]
