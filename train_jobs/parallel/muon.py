"""Muon for the matrices of the blocks, AdamW for embeddings, norms and biases.

The step of a matrix is its momentum with all singular values brought near one (Jordan et al. 2024), by five rounds of a
Newton-Schulz iteration. That needs whole matrices, and ranks hold parts of them: a tensor rank's rows or columns, and a
data rank's piece of all parameters laid end to end. So momentum, which is taken by elements, stays cut; a matrix is
joined only for its own step, on the ranks that hold a part of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train_jobs.config import OptimizerConfig
from train_jobs.parallel.collectives import Group
from train_jobs.parallel.layers import TensorSlice

MOMENTUM = "exp_avg"  # under the name of Adam's first moment: checkpoints know it
ROUNDS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], optimizer: OptimizerConfig
) -> list[dict[str, Any]]:
    """Groups for any optimizer; "scale" is what the rate of the step is multiplied by.

    Matrices of the blocks are Muon's where it is chosen; of the others what has two axes decays.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, held in parameters:
        held.orthogonal = optimizer.name == "muon" and held.dim() == 2 and ".h." in name  # type: ignore[attr-defined]
        held.stacked = 2 if ".attn.kv." in name else 1  # type: ignore[attr-defined]
        (matrices if held.orthogonal else decayed if held.dim() == 2 else plain).append(held)  # type: ignore[attr-defined]
    muon = {"scale": optimizer.matrix_rate / optimizer.rate, "weight_decay": optimizer.matrix_weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": matrices, "muon": list(matrices), **muon},
        {"params": decayed, "muon": [], "scale": 1.0, "weight_decay": optimizer.weight_decay},
        {"params": plain, "muon": [], "scale": 1.0, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix [rows, columns] with its singular values between about 0.7 and 1.2; fp32, rounded to bf16 on a GPU."""
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    upright = x.shape[0] > x.shape[1]
    x = x.t() if upright else x
    x = x / (x.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.t()
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.t() if upright else x).float()


def step_of(momentum: Tensor, stacked: int) -> Tensor:
    """What is taken off a matrix [rows, columns], times the rate; `stacked` matrices lie on top of each other in it.

    Tall matrices are scaled by the root of rows over columns, so that what they write changes as much as by others.
    """
    parts = [
        orthogonalized(part) * max(1.0, part.shape[0] / part.shape[1]) ** 0.5 for part in momentum.chunk(stacked, dim=0)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class _Piece:
    """Where a matrix lies in a group's parameters laid end to end."""

    held: nn.Parameter
    first: int
    stop: int


class Muon(torch.optim.AdamW):
    """torch's AdamW for most groups, and Muon for one whose "muon" holds its matrices once more.

    ZeRO-1 and -2 put one flat piece of a group into the place of its parameters.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, momentum: float, **options: Any) -> None:
        self._momentum = momentum
        self._data: Group = None
        self._tensor = TensorSlice(0, 1, None)
        super().__init__(groups, **options)

    def spread(self, data: Group, tensor: TensorSlice) -> None:
        """Say which processes share the matrices: the data axis and the tensor axis."""
        self._data, self._tensor = data, tensor

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of what this process holds. A collective call of both axes."""
        every = self.param_groups
        for group in every:
            if group["muon"]:
                self._update(group, group["muon"])
        self.param_groups = [group for group in every if not group["muon"]]
        super().step(closure)
        self.param_groups = every

    def _update(self, group: dict[str, Any], matrices: list[nn.Parameter]) -> None:
        steps = []
        for held in group["params"]:
            momentum = self.state[held].setdefault(MOMENTUM, torch.zeros_like(held))
            momentum.lerp_(held.grad, 1 - self._momentum)
            steps.append(held.grad.lerp(momentum, self._momentum))  # Nesterov's
        if group["params"][0] is matrices[0]:
            steps = [self._whole_step(step, held) for step, held in zip(steps, matrices, strict=True)]
        else:
            self._flat_steps(steps[0], matrices)
        for held, step in zip(group["params"], steps, strict=True):
            held.mul_(1 - group["lr"] * group["weight_decay"])
            held.sub_(step, alpha=group["lr"])

    def _whole_step(self, momentum: Tensor, held: nn.Parameter) -> Tensor:
        """The step of this tensor rank's part of a matrix, [rows, columns] both."""
        cut, place = held.cut, self._tensor  # type: ignore[attr-defined]
        if cut is None or place.size == 1:
            return step_of(momentum, held.stacked)  # type: ignore[attr-defined]
        parts = [torch.empty_like(momentum) for _ in range(place.size)]
        dist.all_gather(parts, momentum.contiguous(), group=place.group)
        whole = step_of(torch.cat(parts, dim=cut), held.stacked)  # type: ignore[attr-defined]
        return whole.chunk(place.size, dim=cut)[place.rank]

    def _flat_steps(self, flat: Tensor, matrices: list[nn.Parameter]) -> None:
        """Turn a data rank's piece [elements] of the momentum into its piece of the steps."""
        size = flat.numel()
        rank = dist.get_rank(self._data) if self._data is not None else 0
        start = rank * size
        joined = self._joined(flat, start, [piece for piece in _laid(matrices) if _crosses(piece, size)])
        for piece in _laid(matrices):
            first, stop = max(piece.first, start), min(piece.stop, start + size)
            if first >= stop:
                continue
            momentum = joined[piece.first] if piece.first in joined else flat[first - start : stop - start]
            step = self._whole_step(momentum.view(piece.held.shape), piece.held).reshape(-1)
            flat[first - start : stop - start] = step[first - piece.first : stop - piece.first]

    def _joined(self, flat: Tensor, start: int, pieces: list[_Piece]) -> dict[int, Tensor]:
        """The momentum, by where it begins, of matrices that lie across the pieces of several data ranks."""
        if not pieces:
            return {}
        buffer = flat.new_zeros(sum(piece.stop - piece.first for piece in pieces))
        found, at = {}, 0
        for piece in pieces:
            found[piece.first] = buffer[at : at + piece.stop - piece.first]
            first, stop = max(piece.first, start), min(piece.stop, start + flat.numel())
            if first < stop:
                found[piece.first][first - piece.first : stop - piece.first] = flat[first - start : stop - start]
            at += piece.stop - piece.first
        dist.all_reduce(buffer, group=self._data)  # each element is one rank's, and zero on all others
        return found


def _laid(matrices: list[nn.Parameter]) -> Iterator[_Piece]:
    at = 0
    for held in matrices:
        yield _Piece(held, at, at + held.numel())
        at += held.numel()


def _crosses(piece: _Piece, size: int) -> bool:
    """Whether it lies in the pieces of several data ranks, `size` elements each."""
    return piece.first // size != (piece.stop - 1) // size
