"""The recipe of all sources: it is valid as it stands, names every kind of source, and leaves no stage out."""

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any, get_args

import pytest

from data_jobs import collect
from starloom.artifact import Artifact
from starloom.config import validate
from starloom.recipe import load_recipe
from starloom.step import Step, run_step
from tests.data_jobs.source_trees import (
    commit_files,
    event,
    notebook,
    program,
    write_files,
    write_json_lines,
    write_parquet,
    write_tar,
    write_zip,
)

RECIPE = Path(__file__).resolve().parents[2] / "platform" / "recipes" / "mixed-sources.toml"


def steps() -> dict[str, Step]:
    return {entry.name: importlib.import_module(entry.run).STEP for entry in load_recipe(str(RECIPE)).steps}


def test_recipe_names_every_kind_of_source_but_the_standard_library() -> None:
    settings: Any = next(entry.config for entry in load_recipe(str(RECIPE)).steps if entry.name == "collected")
    union = get_args(collect.AnySource)[0]
    kinds = {source.model_fields["kind"].default for source in get_args(union)}
    assert {source["kind"] for source in settings["sources"]} == kinds - {"python-stdlib"}


def test_each_stage_reads_all_decisions_before_it_and_the_corpus_applies_every_one() -> None:
    made = steps()
    before: list[str] = []
    for entry in load_recipe(str(RECIPE)).steps:
        if made[entry.name].produces in ("decisions", "corpus"):
            assert list(entry.needs) == before
        if made[entry.name].produces in ("collected", "decisions"):
            before.append(entry.name)
    assert before == ["collected", "allowed", "quality", "duplicates", "clean", "redacted"]


GPL = "SPDX-License-Identifier: GPL-3.0-only"
KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEAx0fFlPqBzs9Xk3Yt7RwQ\n" * 8 + "-----END RSA PRIVATE KEY-----"
)


def real_package(name: str) -> dict[str, bytes]:
    """The files of an installed package, metadata and licence included, by their names in its wheel."""
    files = importlib.metadata.files(name) or []
    return {str(file): file.read_binary() for file in files if file.suffix != ".pyc" and ".." not in file.parts}


def write_sources(root: Path) -> None:
    """Every kind of source, with what must not come through: licences, secrets, copies, binaries, odd records."""
    checkouts = {
        "tool/LICENSE": "Permission is hereby granted, free of charge, to any person obtaining a copy",
        "tool/src/main.py": program("main"),
        "tool/src/keys.py": program("keys") + f'KEY = """{KEY}"""\nOWNER = "jane.doe@acme-corp.com"\n',
        "tool/look.ipynb": notebook(("markdown", "# Sums of a table", ""), ("code", program("cells"), "1\n")),
        "tool/logo.png": bytes(range(256)) * 8,
        "strict/main.py": f"# {GPL}\n" + program("strict"),
        "clause/LICENSE": "MIT License with the Commons Clause: the right to Sell the Software is not granted.",
        "clause/main.py": program("clause"),
    }
    write_files(root / "checkouts", checkouts)
    (root / "git").mkdir()
    first = {"LICENSE": "SPDX-License-Identifier: Apache-2.0", "lib/a.py": program("a")}
    changed = {"lib/a.py": program("a").replace("total +=", "total -=")}
    commit_files(
        root / "git" / "lib.git", [("Add the sum of a", first), ("Count from four, as the table does", changed)]
    )
    (root / "archives").mkdir()
    write_zip(root / "archives" / "license_expression.whl", real_package("license-expression"))
    copies = {"copy-1.0/main.py": program("main").encode(), "copy-1.0/LICENSE": b"SPDX-License-Identifier: ISC"}
    write_tar(root / "archives" / "copy.tar.gz", copies)
    (root / "stack").mkdir()
    columns: dict[str, list[Any]] = {
        "content": [program("stack"), program("none"), None],
        "max_stars_repo_name": ["team/stack", "team/none", "team/odd"],
        "max_stars_repo_path": ["s.py", "n.py", "o.py"],
        "max_stars_repo_licenses": [["MIT"], ["GPL-2.0-only"], ["MIT"]],
    }
    write_parquet(root / "stack" / "part.parquet", columns)
    (root / "exports").mkdir()
    record = {"repo_name": "team/export", "path": "e.py", "content": program("export"), "licenses": ["MIT"]}
    write_json_lines(root / "exports" / "rows.jsonl", [record, "{no json"])
    (root / "issues").mkdir()
    body = "The sum is wrong when the table is empty, please mail jane.doe@acme-corp.com about it. " * 3
    events = [event("team/stack", 7, "jane", body), event("team/stack", 7, "joe", body[::-1], comment=1)]
    write_json_lines(root / "issues" / "2020.json.gz", events)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_every_source_together_becomes_a_corpus_with_a_card_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sources(tmp_path / "sources")
    monkeypatch.chdir(tmp_path)
    done: dict[str, Artifact] = {}
    for entry in load_recipe(str(RECIPE)).steps:
        step = importlib.import_module(entry.run).STEP
        config = validate(step.config, entry.config, where=entry.name)
        done[entry.name] = run_step(
            step, config, root=str(tmp_path / "runs"), name=entry.name, needs=[done[name] for name in entry.needs]
        )
    corpus = done["corpus"]
    rows = [row for name in corpus.files("data/") for row in corpus.read_table(name).to_pylist()]
    kept = {(row["repo_name"], row["path"].rsplit("@", 1)[0]): row for row in rows}
    assert {row["kind"] for row in rows} == {"file", "notebook", "commit", "issue"}
    assert {row["source"] for row in rows} >= {"folder", "git", "git-history", "archive", "parquet", "jsonl"}
    assert any(row["path"].endswith("license_expression/__init__.py") for row in rows)
    text = "\n".join(row["content"] for row in rows)
    assert "PRIVATE KEY" not in text
    assert "acme-corp" not in text
    assert not any(name in {"strict", "clause", "team/none"} for name, _ in kept)
    lost = {(row["repo_name"], row["path"]): row["reason"] for row in corpus.read_table("dropped.parquet").to_pylist()}
    assert lost["strict", "main.py"] == lost["clause", "main.py"] == lost["team/none", "n.py"] == "license"
    assert sum(reason == "exact_duplicate" for reason in lost.values()) >= 1
    card = corpus.read_text("card.md")
    for words in ("GPL-3.0-only", "strict", "LicenseRef-", "clause", "key"):
        assert words in card
