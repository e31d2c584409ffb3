"""`starloom explain` over every stage of curation: each file's fate is told by the stage that decided it."""

import importlib
import json

import pytest

from starloom.artifact import Artifact
from starloom.config import validate
from starloom.explain import explain
from starloom.recipe import Recipe, load_recipe
from starloom.step import run_step
from tests.data_jobs.source_trees import program, write_files

pytestmark = pytest.mark.usefixtures("ray_cluster")
TASK = "Return the third largest of all the numbers that are in the list xs"
RECIPE = """
name = "told"
root = "{root}"
[[steps]]
name = "collected"
run = "data_jobs.collect"
config = {{ sources = [{{ kind = "folder", path = "{code}", repositories = "children" }}] }}
[[steps]]
name = "allowed"
run = "data_jobs.policy"
needs = ["collected"]
config = {{ licenses = "any", opt_out = "{opt_out}" }}
[[steps]]
name = "quality"
run = "data_jobs.filter"
needs = ["collected", "allowed"]
[[steps]]
name = "duplicates"
run = "data_jobs.deduplicate"
needs = ["collected", "allowed", "quality"]
[[steps]]
name = "clean"
run = "data_jobs.decontaminate"
needs = ["collected", "allowed", "quality", "duplicates"]
config = {{ benchmarks = [{{ name = "Ours", path = "{tasks}" }}] }}
[[steps]]
name = "redacted"
run = "data_jobs.redact"
needs = ["collected", "allowed", "quality", "duplicates", "clean"]
[[steps]]
name = "corpus"
run = "data_jobs.curate"
needs = ["collected", "allowed", "quality", "duplicates", "clean", "redacted"]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Recipe:
    """The run of a few files, one for each fate."""
    base = tmp_path_factory.mktemp("told")
    code = write_files(
        base / "code",
        {
            "kept/a.py": program("kept"),
            "kept/copy.py": program("kept"),
            "kept/mail.py": program("mail") + "AUTHOR = 'maria@northwind7.com'\n",
            "kept/task.py": program("task") + f'def third(xs):\n    """{TASK}."""\n    return sorted(xs)[-3]\n',
            "kept/long.py": "x = '" + "a" * 5000 + "'\n",
            "gone/b.py": program("gone"),
        },
    )
    (base / "opt-outs.txt").write_text("gone\n")
    (base / "tasks.jsonl").write_text(json.dumps({"task_id": "ours/7", "text": TASK}) + "\n")
    file = base / "told.toml"
    file.write_text(
        RECIPE.format(root=base / "root", code=code, opt_out=base / "opt-outs.txt", tasks=base / "tasks.jsonl")
    )
    loaded = load_recipe(str(file))
    made: dict[str, Artifact] = {}
    for entry in loaded.steps:
        step = importlib.import_module(entry.run).STEP
        config = validate(step.config, dict(entry.config), where=entry.name)
        needs = [made[need] for need in entry.needs]
        made[entry.name] = run_step(step, config, root=loaded.root, name=entry.name, needs=needs)
    return loaded


@pytest.mark.parametrize(
    ("target", "stage", "words"),
    [
        ("gone/b.py", "allowed", "dropped: opt"),
        ("kept/long.py", "quality", "dropped: "),
        ("kept/copy.py", "duplicates", "dropped: exact_duplicate (same bytes as kept/a.py)"),
        ("kept/task.py", "clean", "ours/7"),
        ("kept/mail.py", "redacted", "became"),
        ("kept/a.py", "corpus", "in the corpus"),
        ("kept/mail.py", "corpus", "in the corpus"),
    ],
)
def test_explain_names_the_stage_that_decided(recipe: Recipe, target: str, stage: str, words: str) -> None:
    findings = explain(recipe, target)
    told = [finding.text for finding in findings if finding.stage == stage]
    assert any(words in verdict for verdict in told), findings


@pytest.mark.parametrize("target", ["gone/b.py", "kept/long.py", "kept/copy.py", "kept/task.py"])
def test_explain_ends_with_the_stage_that_dropped_the_file(recipe: Recipe, target: str) -> None:
    verdicts = [finding.text for finding in explain(recipe, target)]
    assert sum(verdict.startswith("dropped") for verdict in verdicts) == 1
    assert "in the corpus" not in verdicts
