"""A tokenizer that is there already becomes an artifact, if it can serve."""

from pathlib import Path

import pytest

from data_jobs.train_tokenizer import train_bpe
from data_jobs.use_tokenizer import STEP, UseTokenizerConfig
from starloom.errors import UserError
from starloom.step import run_step


def test_tokenizer_of_a_folder_becomes_an_artifact(tmp_path: Path) -> None:
    text = train_bpe(iter(["def add(a, b): return a + b"] * 9), 280).json_text
    (tmp_path / "tokenizer.json").write_text(text)
    made = run_step(STEP, UseTokenizerConfig(folder=str(tmp_path)), root=str(tmp_path / "root"), name="tokenizer")
    assert made.kind == "tokenizer"
    assert made.read_text("tokenizer.json") == text
    assert made.manifest.counts.rows_out == 280


def test_tokenizer_without_fill_in_the_middle_is_refused(tmp_path: Path) -> None:
    text = train_bpe(iter(["def add(a, b): return a + b"] * 9), 280).json_text
    (tmp_path / "tokenizer.json").write_text(text.replace("<fim_middle>", "<middle>"))
    with pytest.raises(UserError, match="no special token <fim_middle>"):
        run_step(STEP, UseTokenizerConfig(folder=str(tmp_path)), root=str(tmp_path / "root"), name="tokenizer")
