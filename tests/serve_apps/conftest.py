"""Tiny models for the tests of serving."""

from pathlib import Path

import pytest

from data_jobs.train_tokenizer import train_bpe
from starloom.model.config import ModelConfig
from starloom.model.folder import write_model
from starloom.model.model import initial_state

SHAPE = ModelConfig(layers=2, hidden=48, heads=4, vocabulary=290, context=128, init_std=0.3)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of one shape with different weights."""
    root = tmp_path_factory.mktemp("models")
    (root / "tokenizer.json").write_text(train_bpe(iter(["def f(x):\n    return x + 1\n"] * 50), 290).json_text)
    made = root / "first", root / "second"
    for number, folder in enumerate(made):
        write_model(folder, SHAPE, initial_state(SHAPE, 5 + number), tokenizer=root / "tokenizer.json", card="")
    return made
