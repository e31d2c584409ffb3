"""Model folders as transformers reads and writes them: config.json, safetensors, tokenizer, card, licence."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from starloom.errors import RunError, UserError, one_line
from starloom.model.config import ModelConfig
from starloom.model.model import CodeModel, initial_shapes
from starloom.tokenizer import END_OF_TEXT, TOKENIZER_FILE, TOKENIZER_SETTINGS, load_tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 << 30
_HEAD, _EMBEDDING = "lm_head.weight", "transformer.wte.weight"
_MASKS = (".attn.bias", ".attn.masked_bias")  # constants that old versions of transformers stored
_ROWS = 4096  # of a matrix, compared at a time


def read_config(folder: str | Path) -> ModelConfig:
    """The shape in a folder's config.json; `UserError` when it is missing or of another architecture."""
    path = Path(folder) / "config.json"
    try:
        return ModelConfig.from_transformers(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{folder}: has no config.json; give the folder of a GPTBigCode model") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def read_state(folder: str | Path) -> dict[str, Tensor]:
    """All weights of a folder by name.

    A matrix is [outputs, inputs], as transformers writes it; types are the files' own. The weights are the files
    themselves, read as they are used: a file that is written over changes them, so that whoever keeps them copies them.

    Raises:
        UserError: there are none, or a file of a sharded model is missing or damaged.
    """
    state = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                state.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None
    return state


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a folder, sharded or not; `UserError` when it names none."""
    folder = Path(folder)
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))]
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    raise UserError(f"{folder}: holds no weights ({WEIGHTS} is missing); export or download the model again")


def read_ends(folder: str | Path) -> frozenset[int]:
    """The ids that end a generation, of generation_config.json or else of config.json; none when neither says."""
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if ends is not None:
            return frozenset(ends if isinstance(ends, list) else [ends])
    return frozenset()


def read_model(folder: str | Path, dtype: torch.dtype = torch.float32) -> CodeModel:
    """The model of a folder, on the CPU, in evaluation mode.

    Raises:
        UserError: weights are missing, of the wrong shape, or not finite.
    """
    config, state = read_config(folder), read_state(folder)
    check_names(folder, config)
    with torch.device("meta"):
        model = CodeModel(config)
    wanted = dict(model.named_parameters())
    for name, parameter in wanted.items():
        if name not in state:
            raise UserError(f"{folder}: lacks the weight {name}; the model is incomplete")
        if state[name].shape != parameter.shape:
            raise UserError(f"{folder}: {name} has shape {tuple(state[name].shape)}, not {tuple(parameter.shape)}")
        if not torch.isfinite(state[name]).all():
            raise UserError(f"{folder}: {name} holds values that are not finite; the model is damaged")
    kept = {name: state[name].to(dtype) for name in wanted}
    model.load_state_dict(kept, assign=True)
    return model.eval()


def check_names(folder: str | Path, config: ModelConfig) -> None:
    """Refuse a folder with weights that this architecture has no place for; only names are read, and a second head.

    Raises:
        UserError: there are such weights, or an output layer that is not the embedding.
    """
    held: dict[str, Path] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                held.update(dict.fromkeys(file.keys(), path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None
    known = initial_shapes(config)
    for name in sorted(held):
        if name not in known and name != _HEAD and not name.endswith(_MASKS):
            raise UserError(f"{folder}: holds the weight {name}, which a GPTBigCode model does not have")
    if _HEAD in held and not _equal(held, _HEAD, _EMBEDDING):
        raise UserError(f"{folder}: has an output layer of its own ({_HEAD}); only tied embeddings are supported")


def _equal(held: Mapping[str, Path], one: str, other: str) -> bool:
    if other not in held:
        return False
    with safe_open(held[one], framework="pt") as first, safe_open(held[other], framework="pt") as second:
        left, right = first.get_slice(one), second.get_slice(other)
        if left.get_shape() != right.get_shape():
            return False
        rows = range(0, left.get_shape()[0], _ROWS)
        return all(torch.equal(left[start : start + _ROWS], right[start : start + _ROWS]) for start in rows)


def write_model(
    folder: str | Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    *,
    tokenizer: str | Path,
    card: str,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder that `transformers` loads; `tokenizer` is a tokenizer.json or a folder with one.

    `state` has the tensors by transformers' names, of the shapes that `initial_shapes` gives, [outputs, inputs] each.

    Raises:
        RunError: the tokenizer has more ids than the model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_folder = Path(tokenizer) if Path(tokenizer).is_dir() else Path(tokenizer).parent
    code = load_tokenizer(tokenizer)
    if code.size > config.vocabulary:
        raise RunError(f"the tokenizer has {code.size} ids, the model only {config.vocabulary}")
    end = code.special(END_OF_TEXT)
    values = {**config.to_transformers(end_of_text=end), "torch_dtype": _dtype_name(state)}
    _write_json(folder / "config.json", values)
    _write_json(folder / "generation_config.json", {"bos_token_id": end, "eos_token_id": end, "do_sample": False})
    (folder / TOKENIZER_FILE).write_text(code.json_text, encoding="utf-8")
    if (tokenizer_folder / TOKENIZER_SETTINGS).exists():
        shutil.copyfile(tokenizer_folder / TOKENIZER_SETTINGS, folder / TOKENIZER_SETTINGS)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE").write_text(LICENSE_NOTE, encoding="utf-8")
    _write_weights(folder, state, shard_bytes)


LICENSE_NOTE = (
    "These weights belong to whoever trained them; they set the terms. The code that made them, Starloom, is under\n"
    "the Apache License 2.0. The licences of the training files are listed in the corpus of the run.\n"
)


def _write_weights(folder: Path, state: Mapping[str, Tensor], shard_bytes: int) -> None:
    # the mapping may make its tensors as they are asked for: one shard at a time is in memory
    sizes = {name: state[name].nbytes for name in sorted(state)}
    parts: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if held and held + size > shard_bytes:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    index: dict[str, str] = {}
    for number, names in enumerate(parts, 1):
        file = WEIGHTS if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file({name: state[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(names, file))
    if len(parts) > 1:
        total = sum(sizes.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))})


def _dtype_name(state: Mapping[str, Tensor]) -> str:
    return str(next(iter(state.values())).dtype).removeprefix("torch.")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
