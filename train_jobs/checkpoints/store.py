"""Checkpoints of logical tensors: any layout writes one, any other goes on from it.

``step-N/`` holds safetensors files, each with some parameters' fp32 masters and moments under logical names, and a
manifest, written last, with the position and a checksum of each file. Every data rank of a stage writes a share.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from starloom.errors import RunError, StorageError, one_line
from train_jobs.checkpoints.complete import MANIFEST, complete
from train_jobs.parallel.deepspeed_internals import flat_masters, link_moments, set_state, set_whole
from train_jobs.parallel.layers import TensorSlice
from train_jobs.parallel.pipeline import trained_parameters
from train_jobs.parallel.weights import Files, Source, own_part

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"


def kinds(held: nn.Parameter) -> tuple[str, ...]:
    """What is kept of a parameter: Muon has no second moment."""
    return (MASTER, MOMENTS[0]) if held.orthogonal else (MASTER, *MOMENTS)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Share:
    """What one process keeps and writes of its stage's tensors: about one of `parts`, or nothing at all."""

    part: int
    parts: int
    writes: bool

    def file(self, stage: int, part: int) -> str:
        """The name of a part's file, without its suffix."""
        return f"stage-{stage}" if self.parts == 1 else f"stage-{stage}-part-{part}"


def snapshot(engine: Any, place: TensorSlice, *, vocabulary: int, share: Share) -> dict[str, Tensor]:
    """Copies, in the node's memory, of this process's share of its stage; a collective call of all processes.

    The tensors are fp32, whole along the tensor axis, of the model's own shapes [outputs, inputs] or [width].
    """
    stored = _stored(engine.optimizer)
    stored.prepare()
    tensors: dict[str, Tensor] = {}
    sizes = [getattr(held, "ds_numel", held.numel()) for _, held in trained_parameters(engine.module)]
    ends = list(itertools.accumulate(sizes))
    for (name, held), end in zip(trained_parameters(engine.module), ends, strict=True):
        keep = share.writes and (end - 1) * share.parts // ends[-1] == share.part
        for kind in kinds(held):
            # joined where the process group works: NCCL knows no tensors of the node's memory
            whole = _joined(stored.read(held, kind).detach().to(engine.device, torch.float32), held, place)
            if keep:
                whole = whole[:vocabulary] if name == "transformer.wte.weight" else whole
                # a copy even on a CPU: training goes on while it is written
                tensors[f"{name}.{kind}"] = whole.to("cpu", copy=True).contiguous()
    return tensors


def write_share(folder: Path, stem: str, tensors: dict[str, Tensor]) -> None:
    """Write logical tensors (fp32, by name) and, when the file is whole, its checksum beside it.

    Raises:
        StorageError: the disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{stem}.safetensors"
    try:
        save_file(tensors, file)
    except (OSError, SafetensorError) as error:  # the latter where the disk is full
        raise StorageError(f"{file}: cannot be written: {one_line(error, 200)}") from error
    _replace(folder / f"{stem}.sha256", _checksum(file) + "\n")


def write_manifest(folder: Path, stems: Sequence[str], position: dict[str, Any]) -> bool:
    """Make the checkpoint complete once all files are there; False while they are not."""
    sums = {f"{stem}.safetensors": folder / f"{stem}.sha256" for stem in stems}
    if not all(path.exists() for path in sums.values()):
        return False
    files = {name: path.read_text().strip() for name, path in sums.items()}
    _replace(folder / MANIFEST, json.dumps({**position, "files": files}, indent=1, sort_keys=True) + "\n")
    for path in sums.values():
        path.unlink()
    return True


def remove_unfinished(folder: Path) -> None:
    """Remove checkpoints that an earlier attempt did not finish."""
    for path in folder.glob("step-*"):
        if not (path / MANIFEST).exists():
            shutil.rmtree(path, ignore_errors=True)  # other processes of the node do the same


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint; an unfinished one (no manifest) is never chosen."""
    found = complete(folder)
    return found[max(found)].parent if found else None


def prune(folder: Path, *, last: int, every: int = 0, best: bool = False) -> None:
    """Remove all complete checkpoints but the `last` newest, each `every`-th step's, and the best on held-out files."""
    found = complete(folder)
    steps = sorted(found)
    kept = {*steps[-last:], *(step for step in steps if every and step % every == 0)}
    losses = {step: json.loads(found[step].read_text()).get("heldout_loss") for step in steps} if best else {}
    measured = {step: loss for step, loss in losses.items() if loss is not None}
    if measured:
        kept.add(min(measured, key=lambda step: (measured[step], step)))
    for step in steps:
        if step not in kept:
            found[step].unlink()  # first: what is half removed is no checkpoint
            shutil.rmtree(found[step].parent)


def verified(checkpoint: Path, device: torch.device | None = None) -> dict[str, Any]:
    """Position of a checkpoint whose files match their checksums; a collective call where processes are many.

    The files are dealt out over all processes, far apart so that nodes share the work, and each is read once; what
    one finds wrong, all raise.

    Raises:
        RunError: a file does not match its checksum, or is missing.
    """
    position: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text())
    files: dict[str, str] = position.pop("files")
    alone = not dist.is_initialized()
    rank, ranks = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    wrong = torch.zeros(len(files), device=device)
    for number, (name, checksum) in enumerate(files.items()):
        if number * max(1, ranks // len(files)) % ranks == rank:
            wrong[number] = float(not (checkpoint / name).is_file() or _checksum(checkpoint / name) != checksum)
    if not alone:
        dist.all_reduce(wrong)
    for name, count in zip(files, wrong.tolist(), strict=True):
        if count:
            raise RunError(f"{checkpoint / name}: does not match its checksum; remove {checkpoint} to use an older one")
    return position


def opened(checkpoint: Path) -> Files:
    """The logical tensors of a checkpoint, `NAME.KIND`, to be read in parts."""
    return Files(sorted(checkpoint.glob("stage-*.safetensors")))


def put_masters(engine: Any, source: Source, place: TensorSlice) -> None:
    """Set the fp32 masters, and the parameters with them, to weights by their logical names alone."""
    stored = _stored(engine.optimizer)
    for name, held in trained_parameters(engine.module):
        stored.write(held, MASTER, own_part(source, name, held, place.rank, place.size).float().contiguous())


def put_into(engine: Any, source: Source, place: TensorSlice, *, updates: int) -> None:
    """Put masters and moments into an engine of any layout; `updates` is Adam's own count."""
    stored = _stored(engine.optimizer)
    stored.begin(updates)
    for name, held in trained_parameters(engine.module):
        for kind in kinds(held):
            part = own_part(source, f"{name}.{kind}", held, place.rank, place.size)
            stored.write(held, kind, part.contiguous())


class _Stored(Protocol):
    """Where an optimizer keeps masters and moments. All calls are collective over the data axis."""

    def prepare(self) -> None:
        """Make what `read` needs."""
        ...

    def begin(self, updates: int) -> None:
        """Make room for what `write` brings; Adam has counted `updates`."""
        ...

    def read(self, held: nn.Parameter, kind: str) -> Tensor:
        """This tensor rank's whole master or moment, wherever it is held."""
        ...

    def write(self, held: nn.Parameter, kind: str, value: Tensor) -> None:
        """Set it, and the parameter with its master."""
        ...


class _Whole:
    """torch's own optimizer (ZeRO-0): every data rank has everything, and parameters are their own masters."""

    def __init__(self, optimizer: Any) -> None:
        self._state = optimizer.state

    def prepare(self) -> None:
        pass

    def begin(self, updates: int) -> None:
        self._updates = torch.tensor(float(updates))

    def read(self, held: nn.Parameter, kind: str) -> Tensor:
        value: Tensor = held.data if kind == MASTER else self._state[held][kind]
        return value

    def write(self, held: nn.Parameter, kind: str, value: Tensor) -> None:
        if kind == MASTER:
            held.data.copy_(value)
        else:
            self._state[held].setdefault("step", self._updates.to(held.device, copy=True))
            self._state[held][kind] = value.to(held, copy=True)


class _Shared:
    """DeepSpeed's ZeRO-1 to -3: masters and moments are cut into flat pieces, one a data rank."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def prepare(self) -> None:
        link_moments(self._optimizer)

    def begin(self, updates: int) -> None:
        groups = self._optimizer.param_groups
        orthogonal = {id(flat) for group in groups if group["muon"] for flat in group["params"]}
        for flat in flat_masters(self._optimizer):
            # the fused update wants its count where the rest is
            count = torch.tensor(float(updates), device=flat.device)
            moments = MOMENTS[:1] if id(flat) in orthogonal else MOMENTS
            state = {"step": count, **{key: torch.zeros_like(flat) for key in moments}}
            set_state(self._optimizer, flat, state)
        self.prepare()

    def read(self, held: nn.Parameter, kind: str) -> Tensor:
        value: Tensor | None
        value = safe_get_full_fp32_param(held) if kind == MASTER else safe_get_full_optimizer_state(held, kind)
        if value is None:
            raise RunError(f"DeepSpeed holds no {kind} of {held.logical}")  # type: ignore[attr-defined]
        return value

    def write(self, held: nn.Parameter, kind: str, value: Tensor) -> None:
        if kind != MASTER:
            safe_set_full_optimizer_state(held, value, kind)
            return
        safe_set_full_fp32_param(held, value)
        set_whole(held, value)


def _stored(optimizer: Any) -> _Stored:
    return _Whole(optimizer) if isinstance(optimizer, torch.optim.Optimizer) else _Shared(optimizer)


def _joined(local: Tensor, held: nn.Parameter, place: TensorSlice) -> Tensor:
    axis = held.cut  # type: ignore[attr-defined]
    if axis is None or place.size == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(place.size)]
    dist.all_gather(parts, local.contiguous(), group=place.group)
    return torch.cat(parts, dim=axis)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
