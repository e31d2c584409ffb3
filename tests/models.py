"""Tiny tokenizers and model folders, for tests that need a real one and not a good one."""

from pathlib import Path

from data_jobs.train_tokenizer import train_bpe
from starloom.model.config import ModelConfig
from starloom.model.folder import write_model
from starloom.model.model import initial_state
from starloom.tokenizer import CodeTokenizer

CODE = "def f(x):\n    return x + 1\n"


def tiny_tokenizer(text: str = CODE, size: int = 290) -> CodeTokenizer:
    """A byte-level BPE trained on a text."""
    return train_bpe(iter([text] * 50), size)


def write_tiny_model(folder: Path, tokenizer: CodeTokenizer, *, seed: int = 5, **shape: int | float) -> Path:
    """A folder of a model that knows nothing; `shape` are fields of `ModelConfig`, each with a small default."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(tokenizer.json_text, encoding="utf-8")
    plain = {"layers": 2, "hidden": 48, "heads": 4, "context": 128, "vocabulary": tokenizer.size, "init_std": 0.3}
    made = ModelConfig.model_validate({**plain, **shape})
    write_model(folder, made, initial_state(made, seed), tokenizer=path, card="")
    return folder
