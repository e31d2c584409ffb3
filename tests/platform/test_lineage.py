"""From what a thing was made: inputs down to the sources, with when, where, from which commit, and people's labels."""

import subprocess
from pathlib import Path

import pytest

from data_jobs.collect import CollectConfig
from starloom import plugins
from starloom.artifact import Story, read_manifest
from starloom.config import Config
from starloom.errors import NotFoundError, UserError
from starloom.lineage import lineage
from starloom.recipe import load_recipe
from starloom.runner import commit_here
from starloom.step import Outcome, Step, StepContext, run_step


def made(config: Config, context: StepContext) -> Outcome:
    """Something of its inputs."""
    context.output.write_text("data", "x" * len(context.inputs))
    return Outcome(rows_out=len(context.inputs))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    story = Story(commit="0123456789abcdef", labels={"ticket": "OPS-7"})
    root = tmp_path / "root"
    collected = run_step(
        Step(config=CollectConfig, run=made, produces="collected"),
        CollectConfig.model_validate({"sources": [{"kind": "folder", "path": "/code", "repo_name": "team/code"}]}),
        root=str(root),
        name="collected",
    )
    corpus = run_step(Step(Config, made, "corpus"), Config(), root=str(root), name="corpus", needs=[collected])
    tokens = run_step(Step(Config, made, "tokens"), Config(), root=str(root), name="tokens", needs=[corpus, collected])
    run_step(Step(Config, made, "model"), Config(), root=str(root), name="model", needs=[tokens, corpus], story=story)
    return root


def test_a_model_is_drawn_down_to_its_sources(root: Path) -> None:
    lines = lineage(str(root))
    names = [line.split(" (")[0].rsplit(" ", 1)[0] for line in lines]
    assert names[:4] == ["model", "├─ tokens", "│  ├─ corpus", "│  │  └─ collected"]
    assert lines[4] == "│  │     └─ source folder /code team/code"
    assert [line.endswith("(see above)") for line in lines[5:]] == [True, True]
    assert names[5:] == ["│  └─ collected", "└─ corpus"]
    assert " · commit 0123456789ab · ticket = OPS-7" in lines[0]
    assert " UTC · on " in lines[3]


def test_labels_and_commits_are_in_no_fingerprint(root: Path) -> None:
    (model,) = (root / "model").iterdir()
    manifest = read_manifest(str(model))
    assert manifest.story.labels == {"ticket": "OPS-7"}
    needs = [f"tokens/{next((root / 'tokens').iterdir()).name}", f"corpus/{next((root / 'corpus').iterdir()).name}"]
    again = run_step(Step(Config, made, "model"), Config(), root=str(root), name="model", needs=needs)
    assert again.fingerprint == manifest.fingerprint


def test_what_is_gone_and_what_never_was_is_told(root: Path, tmp_path: Path) -> None:
    (collected,) = (root / "collected").iterdir()
    (collected / "manifest.json").unlink()
    assert any(line.endswith(f"is not at collected/{collected.name} any more") for line in lineage(str(root)))
    with pytest.raises(NotFoundError, match="holds no finished model; name a step: none is done"):
        lineage(str(tmp_path / "empty"))
    with pytest.raises(NotFoundError, match="never: nothing finished"):
        lineage(str(root), "never")
    assert lineage(str(root), "tokens")[0].startswith("tokens ")


def test_recipes_and_commands_give_labels(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "r"\nroot = "r"\n[labels]\nteam = "a"\n[[steps]]\nname = "s"\nrun = "data_jobs.filter"\n')
    assert load_recipe(str(path), labels=("team=b", "why=try")).labels == {"team": "b", "why": "try"}
    with pytest.raises(UserError, match="--label nonsense: write NAME=VALUE"):
        load_recipe(str(path), labels=("nonsense",))


def test_the_commit_is_that_of_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_beside", [str(tmp_path)])
    assert commit_here() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "r.toml").write_text("x")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    commit = commit_here()
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "r.toml").write_text("y")
    assert commit_here() == f"{commit}-dirty"
