"""The training step under Ray Train: a model folder from a corpus, and the same bytes after a worker was killed."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_jobs.pack import STEP as PACK
from data_jobs.pack import PackConfig
from data_jobs.train_tokenizer import STEP as TRAIN_TOKENIZER
from data_jobs.train_tokenizer import TrainTokenizerConfig
from starloom import storage
from starloom.artifact import Artifact, ArtifactWriter
from starloom.config import Config
from starloom.errors import RunError, UserError
from starloom.model.folder import read_model
from starloom.schema import CORPUS
from starloom.step import Outcome, Step, StepContext, run_step
from tests.patience import PATIENCE
from train_jobs.config import OptimizerConfig, PretrainConfig, ShapeConfig
from train_jobs.layout import Layout
from train_jobs.pretrain import STEP

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

SETTINGS = PretrainConfig(
    model=ShapeConfig(layers=2, hidden=32, heads=4, context=32),
    steps=30,
    global_batch=4,
    micro_batch=2,
    optimizer=OptimizerConfig(rate=3e-3, final_rate=3e-4, warmup_steps=2),
    heldout_every=10,
    heldout_sequences=4,
    checkpoint_every=5,
    layout=Layout(data=2),
)


def _write(config: Config, context: StepContext) -> Outcome:
    rows = [
        {
            "id": f"{n:064x}",
            "repo_name": f"team/{n}",
            "path": "a.py",
            "language": "Python",
            "licenses": [],
            "stars": 0,
            "commit": None,
            "source": "test",
            "kind": "file",
            "content": "".join(f"def f{k}(x):\n    return x + {k * n}\n\n\n" for k in range(40)),
        }
        for n in range(40)
    ]
    context.output.write_table("data/part-00000.parquet", pa.Table.from_pylist(rows, schema=CORPUS))
    size = sum(len(row["content"]) for row in rows)
    context.output.write_json("languages.json", {"Python": {"files": len(rows), "bytes": size}})
    return Outcome()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> list[Artifact]:
    root = str(tmp_path_factory.mktemp("inputs"))
    corpus = run_step(Step(config=Config, run=_write, produces="corpus"), Config(), root=root, name="corpus")
    small = TrainTokenizerConfig(vocabulary=288)
    tokenizer = run_step(TRAIN_TOKENIZER, small, root=root, name="tokenizer", needs=[corpus])
    tokens = run_step(PACK, PackConfig(heldout_share=0.2), root=root, name="tokens", needs=[corpus, tokenizer])
    return [tokens, tokenizer]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, inputs: list[Artifact]) -> Artifact:
    return run_step(STEP, SETTINGS, root=str(tmp_path_factory.mktemp("run")), name="model", needs=inputs)


def test_training_learns_and_exports_a_folder_that_our_model_reads(model: Artifact) -> None:
    rows = [json.loads(line) for line in model.read_text("metrics.jsonl").splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    heldout = [row["heldout_loss"] for row in rows if "heldout_loss" in row]
    assert (len(losses), len(heldout)) == (30, 3)
    assert heldout[-1] < heldout[0]
    assert losses[-1] < losses[0] - 1
    assert read_model(model.local("model")).config.vocabulary == 288
    assert all(model.has(f"model/{name}") for name in ("tokenizer.json", "README.md", "LICENSE"))


class Assassin(threading.Thread):
    """Sends one training worker a signal after the first checkpoint, or one after each of `times` further ones."""

    def __init__(
        self,
        root: Path,
        sent: signal.Signals = signal.SIGKILL,
        times: int = 1,
        found: str = "model/*/checkpoints/step-*/manifest.json",
    ) -> None:
        super().__init__(daemon=True)
        self.root, self.sent, self.times, self.found = root, sent, times, found
        self.killed: list[int] = []

    def run(self) -> None:
        """Wait for a checkpoint that was not there at the last kill, then kill."""
        deadline = time.monotonic() + PATIENCE
        seen: set[Path] = set()
        while time.monotonic() < deadline and len(self.killed) < self.times:
            found = set(self.root.glob(self.found))
            victim = next(self._workers(), None) if found - seen else None
            if victim and victim.pid not in self.killed:
                os.kill(victim.pid, self.sent)
                self.killed.append(victim.pid)
                seen = found
            time.sleep(0.01)

    def _workers(self) -> Iterator[psutil.Process]:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                if "RayTrainWorker" in " ".join(child.cmdline()):
                    yield child


def test_killed_workers_are_replaced_and_the_run_ends_with_the_same_bytes(tmp_path, inputs, model) -> None:
    """Two are killed where one failure is allowed: they are counted anew after each checkpoint."""
    assassin = Assassin(tmp_path, times=2)
    assassin.start()
    settings = SETTINGS.model_copy(update={"max_failures": 1})
    again = run_step(STEP, settings, root=str(tmp_path), name="model", needs=inputs)
    assassin.join(timeout=1)
    assert len(assassin.killed) == 2
    assert again.fingerprint == model.fingerprint
    assert again.manifest.files == model.manifest.files
    board = EventAccumulator(str(again.local("logs/tensorboard")), purge_orphaned_data=True)
    board.Reload()
    assert [point.step for point in board.Scalars("loss")] == list(range(1, 31))  # none lost, none twice
    parts = [board.Scalars(f"seconds/{part}")[-1].value for part in ("data", "forward", "backward", "optimizer")]
    assert all(seconds > 0 for seconds in parts)


def test_on_an_object_store_a_killed_worker_costs_what_came_after_the_last_upload(tmp_path, s3, inputs, model) -> None:
    root = f"{s3}/{tmp_path.name}"
    storage.upload(Path(inputs[0].folder), f"{root}/tokens/{inputs[0].fingerprint}")
    needs = [Artifact.open(f"{root}/tokens/{inputs[0].fingerprint}"), inputs[1]]
    assassin = Assassin(
        ArtifactWriter(f"{root}/model/any").staging().parent, found="*/checkpoints/step-*/manifest.json"
    )
    assassin.start()
    again = run_step(STEP, SETTINGS, root=root, name="model", needs=needs)
    assassin.join(timeout=1)
    assert len(assassin.killed) == 1
    assert again.manifest.files == model.manifest.files
    assert again.files("checkpoints/") == model.files("checkpoints/")
    assert not ArtifactWriter(again.folder).staging().exists()
    rows = [json.loads(line) for line in again.read_text("metrics.jsonl").splitlines() if "loss" in line]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 31))


def test_what_a_worker_tells_ends_the_run_at_once(tmp_path, inputs, capfd: pytest.CaptureFixture[str]) -> None:
    wild = SETTINGS.model_copy(update={"optimizer": OptimizerConfig(rate=1e30, final_rate=1e30, warmup_steps=0)})
    with pytest.raises(RunError, match=r"^step 2: the loss is nan; samples 4 to 7, see skipped.jsonl; lower [^\n]*$"):
        run_step(STEP, wild, root=str(tmp_path), name="model", needs=inputs)
    assert "attempt 2" not in capfd.readouterr().out


def test_hanging_worker_is_named_and_the_run_ends_with_the_same_bytes(tmp_path, inputs, model) -> None:
    assassin = Assassin(tmp_path, signal.SIGSTOP)
    assassin.start()
    settings = SETTINGS.model_copy(update={"hang_seconds": 4.0})
    again = run_step(STEP, settings, root=str(tmp_path), name="model", needs=inputs)
    assassin.join(timeout=1)
    assert len(assassin.killed) == 1
    told = json.loads((again.local("logs/watch") / "hang.json").read_text())
    assert told["process"] == assassin.killed[0]  # the one that was stopped, told by the other
    assert told["told_by"] == 1 - told["rank"]
    stack = (again.local("logs/watch") / f"stack-{told['told_by']}.txt").read_text()
    assert "train_step" in stack
    assert again.manifest.files == model.manifest.files


def test_layout_larger_than_the_cluster_is_told_in_one_line(tmp_path, inputs) -> None:
    settings = SETTINGS.model_copy(update={"layout": Layout(data=2, tensor=2)})
    with pytest.raises(UserError, match="4 workers × cpus_per_worker = 1 need 4 CPUs, the cluster has 2"):
        run_step(STEP, settings, root=str(tmp_path), name="model", needs=inputs)
