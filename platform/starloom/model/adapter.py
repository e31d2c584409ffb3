"""LoRA adapters in peft's format: written by training, added by readers into a copy of the base model's weights.

(E. Hu et al., LoRA, 2021.) Merged, an adapter costs the memory of one more model and no time at all; an engine that
several share adds each one's low-rank part to the products of its requests' rows.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from starloom import storage
from starloom.errors import UserError
from starloom.fetched import local_copy
from starloom.model.folder import read_model
from starloom.model.model import CodeModel
from starloom.tokenizer import TOKENIZER_FILE, TOKENIZER_SETTINGS

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LowRank = Mapping[str, tuple[Tensor, Tensor]]  # as `read_low_rank` tells it
# settings that change what the matrices mean, and the values that are understood; PiSSA, OLoRA, CorDA, LoRA-GA and
# LoftQ begin by changing the base's own weights: their matrices belong to another base than the one that is named
UNDERSTOOD = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "use_rslora": (True, False, None),
}
# settings of training, of names and of what the file of weights tells by itself: any value
HARMLESS = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "inference_mode", "task_type", "base_model_name_or_path", "revision", "auto_mapping"),
        *("peft_version", "megatron_core", "qalora_group_size", "eva_config"),
    }
)


def is_adapter(folder: str | Path) -> bool:
    """Whether the folder holds an adapter and no model."""
    return (Path(folder) / CONFIG).is_file()


def base_folder(folder: str | Path) -> Path:
    """The folder of an adapter's base model; `folder` itself when it holds no adapter.

    Raises:
        UserError: the adapter does not name a folder that is here.
    """
    folder = Path(folder)
    if not is_adapter(folder):
        return folder
    named = str(_config(folder).get("base_model_name_or_path") or "")
    found = local_copy(named) if storage.is_remote(named) else folder / named  # an absolute path stays what it is
    if not named or not (found / "config.json").is_file():
        raise UserError(f"{folder / CONFIG}: base_model_name_or_path = {named!r} is no model folder; set it to one")
    return found


def read_adapted(folder: str | Path) -> CodeModel:
    """The model of a folder; an adapter's is its base model with the adapter added.

    Raises:
        UserError: the base or the adapter is damaged, or the adapter is none that can be added.
    """
    model = read_model(base_folder(folder))
    if is_adapter(folder):
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, (down, up) in read_low_rank(folder, model).items():
                weights[name].add_(up @ down)
    return model


def write_adapter(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    base: str,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    tokenizer: Path,
    card: str,
) -> None:
    """Write a folder that peft and our server load; `tokenizer` is a tokenizer.json, perhaps with settings beside it.

    `base` is the path of the model's folder, or its URL, which our server alone can follow.

    `state` has, for each target of each block, ``...lora_A.weight`` [rank, inputs] and ``...lora_B.weight``
    [outputs, rank], named after the weight of the model that they change.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base if storage.is_remote(base) else str(Path(base).resolve()),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": list(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": False,
        "use_rslora": False,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
    for beside in (tokenizer.parent / TOKENIZER_SETTINGS, local_copy(base) / "generation_config.json"):
        if beside.is_file():
            shutil.copyfile(beside, folder / beside.name)
    (folder / "README.md").write_text(card, encoding="utf-8")
    whole = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for name, values in UNDERSTOOD.items():
        if config.get(name) not in values:
            raise UserError(f"{folder / CONFIG}: {name} = {config.get(name)!r} cannot be served; use {values[0]!r}")
    for name, value in config.items():
        if name not in UNDERSTOOD and name not in HARMLESS and value not in (None, False, "", [], {}):
            raise UserError(
                f"{folder / CONFIG}: {name} = {value!r} cannot be served; merge the adapter into its base first"
            )
    return config


def read_low_rank(folder: str | Path, model: CodeModel) -> dict[str, tuple[Tensor, Tensor]]:
    """What an adapter adds to weights of its base `model`: by their names, down [rank, inputs] and up [outputs, rank].

    The change of a weight is up · down: the adapter's scale is in `up`.

    Raises:
        UserError: the adapter is damaged, another model's, or none that can be added.
    """
    folder = Path(folder)
    config = _config(folder)
    rank = int(config["r"])
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read: {error}") from None
    weights = dict(model.named_parameters())
    downs = {name for name in state if name.endswith(".lora_A.weight")}
    if not downs or {name.replace("lora_A", "lora_B") for name in downs} != set(state) - downs:
        raise UserError(f"{folder / WEIGHTS}: holds no pairs of lora_A and lora_B; it is no LoRA adapter")
    found = {}
    for name in sorted(downs):
        target = name.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")
        down, up = state[name].to(torch.float32, copy=True), scale * state[name.replace("lora_A", "lora_B")].float()
        if target not in weights or weights[target].shape != (len(up), *down.shape[1:]) or up.shape[1:] != (len(down),):
            raise UserError(f"{folder / WEIGHTS}: {name} fits no weight of the base model; it is another model's")
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise UserError(f"{folder / WEIGHTS}: {name} holds values that are not finite; the adapter is damaged")
        found[target] = (down, up)
    return found
