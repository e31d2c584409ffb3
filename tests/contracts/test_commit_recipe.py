"""The recipe `commit-instructions` on a real repository, from its history to a model: toy sizes, every step."""

import json
from pathlib import Path

import pytest

from starloom.kinds import Model
from starloom.recipe import load_recipe
from tests.contracts.conftest import REQUESTS
from tests.data_jobs import source_trees as trees
from tests.models import tiny_tokenizer, write_tiny_model
from tests.recipes import made_by

pytestmark = pytest.mark.slow


def test_commits_of_a_repository_become_a_model(ray_cluster: str, tmp_path: Path) -> None:
    texts = [trees.program("table", lines) for lines in (3, 5, 7, 9, 11, 13)]
    subjects = ("Start the table", *REQUESTS, "Fix the last line of it", "Use longer names in it")
    commits = [(subject, {"table.py": text}) for subject, text in zip(subjects, texts, strict=True)]
    trees.commit_files(tmp_path / "history.git", commits)
    tokenizer = tiny_tokenizer(texts[-1], 400)
    folder = write_tiny_model(tmp_path / "base", tokenizer, hidden=32, heads=2, context=512, init_std=0.02)
    source = (
        f'{{ kind = "git-history", path = "{tmp_path}/history.git", extreme_share = 1.0, short_subject_share = 1.0 }}'
    )
    settings = {
        "collected.sources": f"[{source}]",
        "model.model_folder": str(folder),
        "model.context": "256",
        "model.epochs": "1",
        "model.global_batch": "2",
        "model.micro_batch": "1",
        "model.precision": "fp32",
        "model.use_gpu": "false",
        "model.layout": "{ data = 1 }",
        "model.zero": "1",
        "model.heldout_share": "0",
    }
    assignments = [f"{key}={value}" for key, value in settings.items()]
    made = made_by(load_recipe("commit-instructions", root=str(tmp_path / "run"), assignments=assignments))
    counts = made["model"].manifest.counts
    assert counts.rows_out == 5
    assert counts.dropped == {"message_is_no_request": 1}
    assert json.loads((Model(made["model"]).folder() / "config.json").read_text())["n_embd"] == 32
