"""What one step leaves behind is what another, the report, `explain` and `verify` read."""

import json
import shutil
from pathlib import Path

import pytest

from data_jobs.benchmarks.tasks import Benchmark, tasks_of
from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.benchmarks.records import read_records
from serve_apps.evaluation.contamination import contamination
from starloom.cli import main as starloom
from starloom.contamination import Match
from starloom.errors import UserError
from starloom.explain import explain
from starloom.kinds import Corpus, Decisions, Model, Report, Tokens
from starloom.recipe import load_recipe
from tests.contracts.conftest import Run

pytestmark = pytest.mark.slow


def test_corpus_knows_what_it_was_held_against_whatever_the_step_is_called(run: Run) -> None:
    corpus = Corpus(run.made["corpus"])
    assert corpus.benchmarks() == ("HumanEval",)
    assert contamination(corpus.artifact, benchmark("humaneval").tasks(None)) == {
        "checked": True,
        "files_removed": 1,
        "tasks_found": 1,
    }
    assert contamination(corpus.artifact, benchmark("humaneval").tasks(None)[100:])["checked"]


def test_corpus_of_before_tells_its_benchmarks_by_its_inputs(run: Run) -> None:
    corpus = run.made["corpus"]
    details = {name: value for name, value in corpus.manifest.details.items() if name != Decisions.BENCHMARKS}
    old = type(corpus)(corpus.folder, corpus.manifest.model_copy(update={"details": details}))
    assert Corpus(old).benchmarks() == ("HumanEval",)


def test_decisions_of_a_step_of_ones_own_may_have_settings_of_any_name(run: Run) -> None:
    made = run.made["duplicates"]
    config = {"benchmarks": ["speed"]}
    assert Decisions(type(made)(made.folder, made.manifest.model_copy(update={"config": config}))).benchmarks() == ()


@pytest.mark.parametrize("match", [Match("benchmark_text", "My set 7"), Match("benchmark_solution", "A, b 7", 0.83)])
def test_match_is_read_as_it_was_written(match: Match) -> None:
    assert Match.read(match.reason, match.detail) == match
    assert Match.read("near_duplicate", match.detail) is None
    assert "7" in match.possible_ids()


def test_views_refuse_artifacts_of_another_kind_in_one_line(run: Run) -> None:
    with pytest.raises(UserError, match="holds corpus, not tokens"):
        Tokens(run.made["corpus"])
    with pytest.raises(UserError, match="not model"):
        Model(run.made["tokens"])


def test_report_shows_what_the_steps_counted(run: Run) -> None:
    page = run.made["report"].read_text(Report.PAGE)
    assert f"{run.made['corpus'].manifest.counts.rows_in:,}" in page
    assert "duplicates" in page


def test_explain_reads_a_finished_run_after_its_sources_have_changed_or_gone(run: Run, tmp_path: Path) -> None:
    recipe = load_recipe(str(run.recipe))
    before = explain(recipe, "team/code/copied.py")
    assert [word.dropped for word in before] == [False] * (len(before) - 1) + [True]
    assert before[-1].stage == "quiet"
    kept = explain(recipe, "team/code/alpha.py")
    assert kept[-1].text == "in the corpus"
    code = run.recipe.parent / "code"
    moved = tmp_path / "code"
    shutil.copytree(code, moved)
    try:
        (code / "beta.py").write_text("changed = 1\n")
        assert explain(recipe, "team/code/copied.py") == before
        shutil.rmtree(code)
        assert explain(recipe, "team/code/copied.py") == before
    finally:
        shutil.rmtree(code, ignore_errors=True)
        shutil.copytree(moved, code)


def test_verify_finds_the_damaged_file_and_says_what_to_make_again(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert starloom(["verify", str(run.recipe)]) == 0
    assert "every checksum matches" in capsys.readouterr().out
    file = Path(run.made["corpus"].path(Corpus.CARD))
    good = file.read_bytes()
    file.write_bytes(good.replace(b"Funnel", b"Tunnel"))
    try:
        assert starloom(["verify", str(run.recipe)]) == 1
    finally:
        file.write_bytes(good)
    told = capsys.readouterr().out
    assert "card.md does not match its checksum" in told
    assert f"corpus/{run.made['corpus'].fingerprint}" in told


def test_separator_inside_a_json_string_ends_no_line_for_any_reader(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    task = {"task_id": "T/1", "prompt": "a\u2028b\x85c", "test": "pass"}
    path.write_text(json.dumps(task, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_records(path, ("task_id", "prompt", "test")) == [task]
    assert list(tasks_of(Benchmark(name="mine", path=str(path)))) == [("mine T/1", task)]
