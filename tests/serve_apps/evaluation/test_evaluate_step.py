"""The evaluation step on a tiny model: served over HTTP, tasks in the sandbox, bits per byte."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from serve_apps.evaluate import STEP, EvaluateConfig
from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.contamination import contamination
from serve_apps.evaluation.heldout import bits, windows, within_budget
from starloom.artifact import Artifact
from starloom.config import Config
from starloom.kinds import HeldoutDocument
from starloom.model.config import ModelConfig
from starloom.model.folder import read_model, write_model
from starloom.model.model import initial_state
from starloom.step import Outcome, Step, StepContext, run_step
from starloom.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, load_tokenizer

pytestmark = pytest.mark.slow

SHAPE = ModelConfig(vocabulary=300, context=96, hidden=32, layers=2, heads=4)
TEXT = "def add(one, two):\n    return one + two\n\n\n"


class NoConfig(Config):
    """A step without settings."""


def write_tokenizer(path: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT] * 20, trainer)
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def model(root: Path) -> Artifact:
    tokenizer = write_tokenizer(root / "tokenizer.json")

    def work(config: NoConfig, context: StepContext) -> Outcome:
        folder = context.output.local_folder("model")
        write_model(folder, SHAPE, initial_state(SHAPE, 3), tokenizer=tokenizer, card="# card\n")
        return Outcome()

    return run_step(Step(NoConfig, work, "model"), NoConfig(), root=str(root), name="model")


@pytest.fixture(scope="module")
def tokens(root: Path) -> Artifact:
    def work(config: NoConfig, context: StepContext) -> Outcome:
        rows = [
            {"id": str(n), "repo_name": "a/b", "path": f"m{n}.py", "language": "Python", "content": TEXT * (n + 1)}
            for n in range(4)
        ]
        context.output.write_table("heldout/documents.parquet", pa.Table.from_pylist(rows))
        return Outcome()

    return run_step(Step(NoConfig, work, "tokens"), NoConfig(), root=str(root), name="tokens")


def test_step_writes_scores_and_completions_the_same_twice(
    ray_cluster: str, root: Path, model: Artifact, tokens: Artifact
) -> None:
    config = EvaluateConfig(tasks=2, n=2, max_tokens=16, completions=2)
    written = []
    for name in ("one", "two"):
        artifact = run_step(STEP, config, root=str(root), name=name, needs=[model, tokens])
        written.append([artifact.open_file(file).read() for file in ("results.json", "humaneval/samples.jsonl")])
    assert written[0] == written[1]
    results = json.loads(written[0][0])
    assert results["model"] == model.fingerprint
    assert results["humaneval"]["pass_at_k"] == {"1": 0.0}  # a model with random weights
    assert (results["humaneval"]["n"], results["humaneval"]["tasks"]) == (2, 2)
    assert sum(results["humaneval"]["statuses"].values()) == 4
    assert results["heldout"]["bytes"] == len(TEXT) * 10
    assert len(results["completions"]) == 2
    rows = [json.loads(line) for line in written[0][1].decode().splitlines()]
    assert [(row["task_id"], row["sample"]) for row in rows] == [
        (f"HumanEval/{task}", sample) for task in range(2) for sample in range(2)
    ]


def test_bits_of_short_files_equal_the_models_own_loss(model: Artifact) -> None:
    folder = model.local("model")
    documents = [HeldoutDocument("a", "x", "Python", TEXT), HeldoutDocument("a", "y", "Python", "x = 1\n")]
    code, tokenizer = read_model(folder), load_tokenizer(folder)
    for found, document in zip(bits(folder, documents), documents, strict=True):
        ids = torch.tensor([[tokenizer.special(END_OF_TEXT), *tokenizer.encode(document.content)]])
        with torch.inference_mode():
            expected = float(code.loss(ids)) * (ids.shape[1] - 1) / math.log(2)
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("length", "context"), [(1, 8), (8, 8), (9, 8), (100, 8), (101, 9), (12, 8)])
def test_windows_score_every_token_once(length: int, context: int) -> None:
    scored = [n for w in windows(length, 0, context) for n in range(w.start + w.context, w.end)]
    assert scored == list(range(length))
    assert all(w.end - w.start <= context and w.start >= 0 for w in windows(length, 0, context))


def test_choice_of_heldout_files_keeps_to_the_budget_whatever_the_order() -> None:
    documents = [HeldoutDocument("r", f"{n}", "Python", "x" * 100) for n in range(50)]
    chosen = within_budget(documents, 1000)
    assert len(chosen) == 10
    assert within_budget(documents[::-1], 1000) == chosen
    assert len(within_budget(documents, 1)) == 1


def test_contamination_is_counted_from_what_was_dropped(root: Path) -> None:
    def work(config: NoConfig, context: StepContext) -> Outcome:
        drops = [
            ("benchmark_text", "HumanEval HumanEval/3"),
            ("benchmark_solution", "HumanEval HumanEval/3, 0.91 of its 5-grams"),
            ("benchmark_text", "Mine 7"),
            ("near_duplicate", "HumanEval/4"),
        ]
        rows = [{"reason": reason, "detail": detail} for reason, detail in drops]
        context.output.write_table("dropped.parquet", pa.Table.from_pylist(rows))
        context.output.write_json("funnel.json", [{"stage": "decontaminate"}])
        return Outcome()

    corpus = run_step(Step(NoConfig, work, "corpus"), NoConfig(), root=str(root), name="corpus")
    tasks = benchmark("humaneval").tasks(None)
    assert contamination(corpus, tasks) == {"checked": True, "files_removed": 2, "tasks_found": 1}
    assert contamination(corpus, tasks[10:])["tasks_found"] == 0
