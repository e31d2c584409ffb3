"""The recipe `adapt` at toy size: git repositories and a model to an adapter that is served beside its base."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from serve_apps.hosting import model_folder, serving_config
from starloom.artifact import newest
from starloom.kinds import Evaluation, Model
from starloom.model.adapter import base_folder, is_adapter
from tests.data_jobs.source_trees import commit_files, program
from tests.models import tiny_tokenizer, write_tiny_model

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    write_tiny_model(folder / "base", tiny_tokenizer(program("base"), 300), context=256)
    (folder / "git").mkdir()
    for name in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
        files = {
            "LICENSE": "SPDX-License-Identifier: MIT",
            **{f"{name}/{n}.py": program(f"{name}{n}") for n in range(5)},
        }
        commit_files(folder / "git" / f"{name}.git", [("first", files)])
    return folder


def started(root: Path, *more: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """The recipe by its command, which has a Ray of its own."""
    settings = {
        "collected.sources": f'[{{kind = "git", path = "{root}/git/*"}}]',
        "tokenizer.folder": json.dumps(str(root / "base")),
        "tokens.heldout_share": "0.4",
        "model.initial_model": json.dumps(str(root / "base")),
        "model.sequence": "64", "model.steps": "3", "model.global_batch": "4", "model.micro_batch": "2",
        "model.precision": json.dumps("fp32"), "model.use_gpu": "false", "model.lora": "{rank = 2, alpha = 4}",
        "evaluation.tasks": "1", "evaluation.completions": "1", "evaluation.max_tokens": "8",
        **changed,
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "starloom.cli", "run", "adapt", "--root", str(root / "run"), *words, *more]
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE / 'platform'}"}
    return subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_repositories_become_an_adapter_that_is_served_beside_its_base(root: Path, ray_cluster: str) -> None:
    run = started(root)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    found, evaluation = newest(str(root / "run"), Model.kind), newest(str(root / "run"), Evaluation.kind)
    assert found is not None
    assert evaluation is not None
    model, results = Model(found), Evaluation(evaluation).results()
    assert is_adapter(model.folder())
    assert base_folder(model.folder()) == (root / "base").resolve() == model.initial
    assert "LoRA" in (model.folder() / "README.md").read_text()
    assert results["before"]["heldout"]["bytes"] == results["heldout"]["bytes"]
    assert results["heldout"]["bits_per_byte"] != results["before"]["heldout"]["bits_per_byte"]
    assert "before this training" in (root / "run" / "report.html").read_text()
    folders = {"base": root / "base", "ours": model_folder(str(root / "run"))}
    served = [{"name": name, "folder": str(folder)} for name, folder in folders.items()]
    with serving_config({"models": served}) as url:
        ask = {"prompt": "def f", "max_tokens": 4, "temperature": 0}
        answers = [httpx.post(f"{url}/v1/completions", json={"model": name, **ask}) for name in folders]
    assert [answer.status_code for answer in answers] == [200, 200]
    again = started(root, "--only", "model", **{"model.initial_model": json.dumps(str(folders["ours"]))})
    assert again.returncode == 2
    assert "is an adapter; name its base model" in again.stdout + again.stderr
