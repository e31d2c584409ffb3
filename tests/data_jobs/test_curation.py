"""All sources in one run, from collection to the corpus: nothing is lost silently, and reruns give the same bytes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from data_jobs import collect, curate, decontaminate, policy, redact
from data_jobs import filter as quality
from starloom.artifact import Artifact
from starloom.config import validate
from starloom.errors import StarloomError, UserError
from starloom.step import run_step
from tests.data_jobs import source_trees as trees

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]
CONTAMINATED = (
    'def third(xs):\n    """Return the third largest of all the numbers in the list xs."""\n    return sorted(xs)[-3]\n'
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One source of every kind, with damage in most of them."""
    base = tmp_path_factory.mktemp("sources")
    trees.write_files(
        base / "folder",
        {
            "good.py": trees.program("folder"),
            "mail.py": trees.program("mail") + "AUTHOR = 'maria@northwind7.com'\n",
            "task.py": CONTAMINATED,
            "long.py": "x = '" + "a" * 5000 + "'\n",
            "latin.py": "x = 'é'\n".encode("latin-1"),
            "wide.py": "x = 1\n".encode("utf-16"),
            "empty.py": "",
            "binary.py": b"a\0b",
            "picture.xyz": "unknown",
            "book.ipynb": trees.notebook(("markdown", "# Hello", ""), ("code", "print(1)", "1")),
            "broken.ipynb": "{",
            "LICENSE": trees.MIT,
        },
    )
    history = [("Add the first of the programs", {"a.py": trees.program("first"), "LICENSE": trees.MIT})]
    history += [
        (f"Change number {n} of the program here", {"a.py": trees.program("first", 12 + 4 * n)}) for n in (1, 2)
    ]
    trees.commit_files(base / "team" / "tool.git", history)
    trees.write_tar(base / "pkg-1.0.tar.gz", {"pkg-1.0/m.py": trees.program("m").encode(), "../evil.py": b"x"})
    (base / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    trees.write_parquet(
        base / "stack.parquet",
        {
            "content": [trees.program("p0"), trees.program("p1"), None],
            "max_stars_repo_name": ["alice/x", "bob/y", "bob/y"],
            "max_stars_repo_path": ["p0.py", "p1.py", "p2.py"],
            "max_stars_repo_licenses": [["MIT"], ["GPL-3.0-only"], ["MIT"]],
        },
    )
    trees.write_json_lines(base / "lines.jsonl", [{"content": trees.program("j"), "path": "j.py", "repo": "o/j"}, "{"])
    body = "The cache is never emptied, see the log of the service for it. " * 4
    trees.write_json_lines(base / "issues.json.gz", [trees.event("o/r", 1, "helper", body, comment=1)])
    git = str(base / "team" / "tool.git")
    return [
        {"kind": "folder", "path": str(base / "folder")},
        {"kind": "git", "path": git},
        {"kind": "git-history", "path": git, "licenses": ["MIT"], "extreme_share": 1},
        {"kind": "archive", "path": str(base / "*.[tz]*"), "licenses": ["MIT"]},
        {"kind": "parquet", "path": str(base / "stack.parquet")},
        {"kind": "jsonl", "path": str(base / "lines.jsonl"), "licenses": ["MIT"]},
        {"kind": "github-issues", "path": str(base / "issues.json.gz"), "licenses": ["MIT"]},
    ]


def curated(sources: list[dict[str, Any]], root: Path, *, shard_megabytes: float = 8) -> list[Artifact]:
    """Run every step of curation; returns the artifacts in their order."""
    opt_out = root / "opt-out.txt"
    opt_out.parent.mkdir(parents=True, exist_ok=True)
    opt_out.write_text("alice\n")
    tasks = {"task_id": "T/1", "text": "Return the third largest of all the numbers in the list xs."}
    bench = trees.write_json_lines(root / "tasks.jsonl", [tasks])
    plan: list[tuple[str, Any, dict[str, Any]]] = [
        ("collected", collect.STEP, {"sources": sources, "shard_megabytes": shard_megabytes}),
        ("policy", policy.STEP, {"opt_out": str(opt_out)}),
        ("quality", quality.STEP, {}),
        ("benchmarks", decontaminate.STEP, {"benchmarks": [{"name": "Mine", "path": str(bench)}]}),
        ("personal", redact.STEP, {}),
        ("corpus", curate.STEP, {}),
    ]
    done: list[Artifact] = []
    for name, step, settings in plan:
        config = validate(step.config, settings, where=name)
        done.append(run_step(step, config, root=str(root / "run"), name=name, needs=list(done)))
    return done


@pytest.fixture(scope="module")
def run(sources: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> list[Artifact]:
    """One run over all sources."""
    return curated(sources, tmp_path_factory.mktemp("run"))


def rows(artifact: Artifact, prefix: str = "data/") -> list[dict[str, Any]]:
    return [row for name in artifact.files(prefix) for row in artifact.read_table(name).to_pylist()]


def test_card_tells_what_the_licence_policy_left_out_and_by_what_evidence(run: list[Artifact]) -> None:
    card = run[-1].read_text("card.md")
    lost = card[card.index("### Files that the licence policy left out") :]
    assert "| GPL-3.0-only | 1 |" in lost
    assert "| bob/y | 1 |" in lost
    assert "#### Left out: GPL-3.0-only\n\n- bob/y/p1.py: given with the parquet" in lost
    assert "#### Kept: MIT" in lost
    assert "folder/good.py: LICENSE (1.00)" in lost
    evidence = run[0].read_table("licenses.parquet").to_pylist()
    assert {(row["path"], tuple(row["licenses"])) for row in evidence} == {("LICENSE", ("MIT",))}


def test_every_file_of_every_source_is_in_the_corpus_or_has_a_reason(run: list[Artifact]) -> None:
    collected, corpus = run[0], run[-1]
    funnel = corpus.read_json("funnel.json")
    dropped = rows(corpus, "dropped.parquet")
    assert funnel[0]["files_in"] == collected.manifest.counts.rows_in
    for stage, following in zip(funnel, [*funnel[1:], None], strict=True):
        assert stage["files_in"] - sum(stage["dropped"].values()) == stage["files_out"]
        assert following is None or following["files_in"] == stage["files_out"]
    assert funnel[0]["files_in"] == len(rows(corpus)) + len(dropped)
    assert all(row["stage"] and row["reason"] for row in dropped)
    assert {row["stage"] for row in dropped} == {"collected", "policy", "quality", "benchmarks"}


def test_reasons_are_the_right_ones(run: list[Artifact]) -> None:
    reasons = {
        (row["repo_name"].rsplit("/", 1)[-1], row["path"]): row["reason"] for row in rows(run[-1], "dropped.parquet")
    }
    expected = {
        ("folder", "latin.py"): None,
        ("folder", "wide.py"): None,
        ("folder", "empty.py"): "empty",
        ("folder", "binary.py"): "binary",
        ("folder", "picture.xyz"): "unknown_language",
        ("folder", "broken.ipynb"): "not_a_notebook",
        ("folder", "long.py"): "long_line",
        ("folder", "task.py"): "benchmark_text",
        ("pkg-1.0", "../evil.py"): "path_outside_archive",
        ("cut", "cut.zip"): "damaged_archive",
        ("x", "p0.py"): "opt_out",
        ("y", "p1.py"): "license",
        ("y", "p2.py"): "no_content",
    }
    assert {key: reasons.get(key) for key in expected} == expected


def test_corpus_holds_every_kind_with_its_licence(run: list[Artifact]) -> None:
    corpus = rows(run[-1])
    assert {row["kind"] for row in corpus} == {"file", "issue", "commit", "notebook"}
    assert {row["source"] for row in corpus} == {"folder", "git", "git-history", "archive", "jsonl", "github-issues"}
    assert all(row["licenses"] == ["MIT"] for row in corpus)


def test_personal_data_is_replaced_and_the_id_follows_the_text(run: list[Artifact]) -> None:
    for row in rows(run[-1]):
        assert row["id"] == hashlib.sha256(row["content"].encode()).hexdigest()
        assert "maria@northwind7.com" not in row["content"]
    assert "AUTHOR = '<EMAIL>'" in next(row["content"] for row in rows(run[-1]) if row["path"] == "mail.py")


def test_data_card_tells_the_funnel_and_the_replacements(run: list[Artifact]) -> None:
    card = run[-1].read_text("card.md")
    assert f"from {run[0].manifest.counts.rows_in:,} files" in card
    for line in (
        "| email | 1 |",
        "| policy | opt_out | 1 |",
        "| MIT |",
        "1 files left out at the wish of their owners",
    ):
        assert line in card


def test_second_run_elsewhere_gives_the_same_bytes(
    run: list[Artifact], sources: list[dict[str, Any]], tmp_path: Path
) -> None:
    again = curated(sources, tmp_path)
    for first, second in zip(run, again, strict=True):
        assert {n: e.sha256 for n, e in first.manifest.files.items()} == {
            n: e.sha256 for n, e in second.manifest.files.items()
        }


def test_smaller_shards_hold_the_same_corpus(
    run: list[Artifact], sources: list[dict[str, Any]], tmp_path: Path
) -> None:
    small = curated(sources, tmp_path, shard_megabytes=0.001)
    assert len(small[-1].files("data/")) > 3
    assert rows(small[-1]) == rows(run[-1])


def test_finished_shards_of_an_interrupted_collection_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_jobs import collect

    trees.write_files(tmp_path / "code", {f"{n}.py": trees.program(f"n{n}") for n in range(6)})
    config = collect.CollectConfig.model_validate(
        {"sources": [{"kind": "folder", "path": str(tmp_path / "code")}], "shard_megabytes": 0.0005}
    )

    def fail(*_: Any) -> Any:
        raise StarloomError("the power went out")

    with monkeypatch.context() as patch:
        patch.setattr(collect, "_merge_dropped", fail)
        with pytest.raises(StarloomError, match="power"):
            run_step(collect.STEP, config, root=str(tmp_path / "run"), name="collected")
    parts = sorted((tmp_path / "run").rglob("data/part-*.parquet"))
    times = [part.stat().st_mtime_ns for part in parts]
    assert len(parts) == 6
    artifact = run_step(collect.STEP, config, root=str(tmp_path / "run"), name="collected")
    assert [part.stat().st_mtime_ns for part in parts] == times
    assert artifact.manifest.counts.rows_out == 6


def test_sources_without_one_good_file_are_a_user_error(tmp_path: Path) -> None:
    trees.write_files(tmp_path / "code", {"a.xyz": "?"})
    config = collect.CollectConfig.model_validate({"sources": [{"kind": "folder", "path": str(tmp_path / "code")}]})
    with pytest.raises(UserError, match="none of 1 files came in"):
        run_step(collect.STEP, config, root=str(tmp_path / "run"), name="collected")


def test_corpus_that_filtering_empties_is_an_error_of_one_line(tmp_path: Path) -> None:
    trees.write_files(tmp_path / "code", {"a.py": "x = 1\n" + "#" * 2000})
    sources = [{"kind": "folder", "path": str(tmp_path / "code"), "licenses": ["MIT"]}]
    with pytest.raises(StarloomError, match="the corpus is empty"):
        curated(sources, tmp_path / "run")


def test_fifty_megabyte_line_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    trees.write_files(tmp_path / "code", {"a.py": trees.program("a"), "b.py": b"x" * 50_000_000})
    config = collect.CollectConfig.model_validate({"sources": [{"kind": "folder", "path": str(tmp_path / "code")}]})
    artifact = run_step(collect.STEP, config, root=str(tmp_path / "run"), name="collected")
    assert json.loads(json.dumps(artifact.manifest.counts.dropped)) == {"too_large": 1}
