"""Tiny tokenizers and model folders, for tests that need a real one and not a good one."""

from pathlib import Path

from data_jobs.train_tokenizer import train_bpe
from starloom.model.config import ModelConfig
from starloom.model.folder import write_model
from starloom.model.model import initial_state
from starloom.tokenizer import CodeTokenizer

CODE = "def add(one, two):\n    return one + two\n\n\nfor number in range(10):\n    print(number)\n"


def tiny_tokenizer(text: str = CODE, size: int = 320) -> CodeTokenizer:
    """A byte-level BPE trained on a text."""
    return train_bpe(iter([text] * 9), size)


def write_tiny_model(
    folder: Path, tokenizer: CodeTokenizer, *, layers: int = 2, hidden: int = 32, heads: int = 4, context: int = 96
) -> Path:
    """A folder of a model that knows nothing; the tokenizer lies in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(tokenizer.json_text, encoding="utf-8")
    shape = ModelConfig(layers=layers, hidden=hidden, heads=heads, vocabulary=tokenizer.size, context=context)
    write_model(folder, shape, initial_state(shape, 1), tokenizer=path, card="")
    return folder
