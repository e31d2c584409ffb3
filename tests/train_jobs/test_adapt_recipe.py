"""The recipe `adapt` at toy size: git repositories and a model to an adapter that is served beside its base."""

import json
from pathlib import Path

import httpx
import pytest

from serve_apps.hosting import model_folder, serving_config
from starloom.errors import UserError
from starloom.kinds import Evaluation, Model
from starloom.model.adapter import base_folder, is_adapter
from starloom.recipe import Recipe, load_recipe
from starloom.runner import run_recipe
from tests.data_jobs.source_trees import commit_files, program
from tests.models import tiny_tokenizer, write_tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    write_tiny_model(folder / "base", tiny_tokenizer(program("base"), 300), context=256)
    (folder / "git").mkdir()
    for name in ("one", "two", "three"):
        files = {
            "LICENSE": "SPDX-License-Identifier: MIT",
            **{f"{name}/{n}.py": program(f"{name}{n}") for n in range(12)},
        }
        commit_files(folder / "git" / f"{name}.git", [("first", files)])
    return folder


def recipe_of(root: Path, **more: str) -> Recipe:
    settings = {
        "collected.sources": f'[{{kind = "git", path = "{root}/git/*"}}]',
        "tokenizer.folder": json.dumps(str(root / "base")),
        "tokens.heldout_share": "0.4",
        "model.initial_model": json.dumps(str(root / "base")),
        "model.sequence": "64", "model.steps": "3", "model.global_batch": "4", "model.micro_batch": "2",
        "model.precision": json.dumps("fp32"), "model.use_gpu": "false", "model.lora": '{rank = 2, alpha = 4}',
        "evaluation.tasks": "1", "evaluation.completions": "1", "evaluation.max_tokens": "8",
        **more,
    }  # fmt: skip
    assignments = tuple(f"{key}={value}" for key, value in settings.items())
    return load_recipe("adapt", root=str(root / "run"), assignments=assignments)


def test_repositories_become_an_adapter_that_is_served_beside_its_base(root: Path) -> None:
    artifacts = run_recipe(recipe_of(root), only=[], say=print)
    model = Model(next(artifact for artifact in artifacts if artifact.kind == Model.kind))
    assert is_adapter(model.folder())
    assert base_folder(model.folder()) == (root / "base").resolve() == model.initial
    assert (model.folder() / "README.md").read_text().count("LoRA") > 0
    results = Evaluation(next(artifact for artifact in artifacts if artifact.kind == Evaluation.kind)).results()
    assert results["before"]["heldout"]["bytes"] == results["heldout"]["bytes"]
    assert results["heldout"]["bits_per_byte"] != results["before"]["heldout"]["bits_per_byte"]
    assert "before this training" in (root / "run" / "report.html").read_text()
    served = {
        "models": [
            {"name": "base", "folder": str(root / "base")},
            {"name": "ours", "folder": str(model_folder(str(root / "run")))},
        ]
    }
    with serving_config(served) as url:
        texts = [
            httpx.post(
                f"{url}/v1/completions", json={"model": name, "prompt": "def f", "max_tokens": 4, "temperature": 0}
            )
            for name in ("base", "ours")
        ]
    assert [text.status_code for text in texts] == [200, 200]


def test_an_adapter_of_an_adapter_and_one_of_nothing_are_told(root: Path) -> None:
    adapter = model_folder(str(root / "run"))
    for more, told in (
        ({"model.initial_model": json.dumps(str(adapter))}, "is an adapter; name its base model"),
        ({"model.initial_model": '""'}, "an adapter changes a model"),
    ):
        with pytest.raises(UserError, match=told):
            run_recipe(recipe_of(root, **more), only=["model"], say=print)
