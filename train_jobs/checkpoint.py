"""Checkpoints of logical tensors: any layout writes one, any other goes on from it.

``step-N/`` holds one safetensors file per pipeline stage that wrote it, with every parameter's fp32 master and both
Adam moments under logical names, and a manifest, written last, with the position and a checksum of each file.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from starloom.errors import RunError
from train_jobs.parallel.layers import TensorSlice
from train_jobs.parallel.pipeline import cut, own_parameters

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"


def save(
    folder: Path,
    engine: Any,
    place: TensorSlice,
    *,
    vocabulary: int,
    stage: int,
    writes: bool,
    position: dict[str, Any],
) -> None:
    """Write ``folder/step-N``; a collective call of all processes. `writes`: this is its stage's first process."""
    target = folder / f"step-{position['step']}"
    _link_moments(engine.optimizer)
    tensors: dict[str, Tensor] = {}
    for name, held in own_parameters(engine.module):
        for kind in (MASTER, *MOMENTS):
            whole = _joined(_read(held, kind), held, place)
            if name == "transformer.wte.weight":
                whole = whole[:vocabulary]
            tensors[f"{name}.{kind}"] = whole.contiguous()
    if writes:
        target.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target / f"stage-{stage}.safetensors")
    dist.barrier()
    if dist.get_rank() == 0:
        files = {path.name: _checksum(path) for path in sorted(target.glob("stage-*.safetensors"))}
        manifest = target / "manifest.json"
        temporary = target / ".manifest.tmp"
        temporary.write_text(json.dumps({**position, "files": files}, indent=1, sort_keys=True) + "\n")
        temporary.replace(manifest)
    dist.barrier()


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint; an unfinished one (no manifest) is never chosen."""
    done = [path.parent for path in folder.glob("step-*/manifest.json")]
    return max(done, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` complete checkpoints, and unfinished ones that are older."""
    done = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    complete = [path for path in done if (path / "manifest.json").exists()]
    for path in done:
        if path not in complete[-keep:]:
            shutil.rmtree(path)


def read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Position and tensors; `RunError` when a file does not match its checksum."""
    position = json.loads((checkpoint / "manifest.json").read_text())
    tensors: dict[str, Tensor] = {}
    for name, checksum in position.pop("files").items():
        if _checksum(checkpoint / name) != checksum:
            raise RunError(f"{checkpoint / name}: does not match its checksum; remove {checkpoint} to use an older one")
        tensors.update(load_file(checkpoint / name))
    return position, tensors


def restore(engine: Any, tensors: dict[str, Tensor], place: TensorSlice, *, updates: int) -> None:
    """Put masters and moments into an engine of any layout; `updates` is Adam's own count."""
    optimizer = engine.optimizer
    for flat in optimizer.single_partition_of_fp32_groups:
        state = {"step": torch.tensor(float(updates)), **{key: torch.zeros_like(flat) for key in MOMENTS}}
        optimizer.optimizer.state[flat] = state
    _link_moments(optimizer)
    for name, held in own_parameters(engine.module):
        master = cut(tensors[f"{name}.{MASTER}"], held, place.rank, place.size)
        safe_set_full_fp32_param(held, master.contiguous())
        held.data.copy_(master)
        for key in MOMENTS:
            moment = cut(tensors[f"{name}.{key}"], held, place.rank, place.size)
            safe_set_full_optimizer_state(held, moment.contiguous(), key)


def _link_moments(optimizer: Any) -> None:
    """Let each parameter find its moments.

    DeepSpeed 0.19 links them once, after the first parameter group's first update, when the other groups have none.
    """
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()


def _read(held: nn.Parameter, kind: str) -> Tensor:
    value = safe_get_full_fp32_param(held) if kind == MASTER else safe_get_full_optimizer_state(held, kind)
    if value is None:
        raise RunError(f"DeepSpeed holds no {kind} of {held.logical}")  # type: ignore[attr-defined]
    return value.detach().float().cpu()


def _joined(local: Tensor, held: nn.Parameter, place: TensorSlice) -> Tensor:
    axis = held.cut  # type: ignore[attr-defined]
    if axis is None or place.size == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(place.size)]
    dist.all_gather(parts, local.contiguous(), group=place.group)
    return torch.cat(parts, dim=axis)


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
