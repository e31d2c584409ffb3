"""Model folders of the benchmark's shape with random weights, and answers that repeat their prompt."""

from pathlib import Path

import torch

from starloom.model.config import ModelConfig
from starloom.model.folder import write_model
from starloom.model.model import initial_state
from starloom.tokenizer import SPECIAL_TOKENS

SHAPE = ModelConfig(layers=20, hidden=768, heads=12, vocabulary=49_152, context=2048)
# what bench_serve_gpu times: 1.1B
CARD = ModelConfig(layers=24, hidden=2048, heads=16, vocabulary=49_152, context=2048)
TOY = ModelConfig(layers=2, hidden=64, heads=4, vocabulary=49_152, context=2048)


def write_tokenizer(path: Path) -> None:
    """49,152 ids: the special tokens, all bytes, and words that no merge makes (the ids are what is timed)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL_TOKENS, *alphabet]
    names += [f"w{number}" for number in range(SHAPE.vocabulary - len(names))]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    path.write_text(tokenizer.to_str())


def model_folder(root: Path, shape: ModelConfig = SHAPE, *, circles: bool = False) -> Path:
    """A folder under `root`, made once.

    With `circles` the next token depends on the last one alone and long circles arise: the answer repeats what was in
    the prompt as in editing. The work of a step is the same.
    """
    folder = root / ("circles" if circles else "random")
    if (folder / "config.json").exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    write_tokenizer(root / "tokenizer.json")
    state = initial_state(shape, 11)
    if circles:
        state["transformer.wpe.weight"].zero_()
        for layer in range(shape.layers):
            state[f"transformer.h.{layer}.attn.c_proj.weight"].zero_()
        last = f"transformer.h.{shape.layers - 1}.mlp"
        state[f"{last}.c_fc.weight"] *= 20
        state[f"{last}.c_proj.weight"] *= 200
    write_model(folder, shape, state, tokenizer=root / "tokenizer.json", card="Random weights.")
    return folder


def random_prompt(length: int, seed: int = 0) -> list[int]:
    """Ids that are no special tokens."""
    generator = torch.Generator().manual_seed(seed)
    low = len(SPECIAL_TOKENS)
    return torch.randint(low, SHAPE.vocabulary, (length,), generator=generator).tolist()
