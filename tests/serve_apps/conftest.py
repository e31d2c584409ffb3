"""Tiny models for the tests of serving."""

from pathlib import Path

import pytest

from tests.models import tiny_tokenizer, write_tiny_model


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of one shape with different weights."""
    root, tokenizer = tmp_path_factory.mktemp("models"), tiny_tokenizer()
    return write_tiny_model(root / "first", tokenizer), write_tiny_model(root / "second", tokenizer, seed=6)
