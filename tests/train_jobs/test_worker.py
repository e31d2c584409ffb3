"""The worker loop in real processes: killed, it goes on with the same bytes; a layout that cannot be is refused."""

import json
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from data_jobs.train_tokenizer import train_bpe
from starloom.artifact import ArtifactWriter
from starloom.errors import RunError, UserError
from starloom.ports import free_port
from starloom.tokens import FimConfig, TokenShardWriter
from tests.patience import PATIENCE
from train_jobs.checkpoints import store as checkpoint
from train_jobs.config import OptimizerConfig, PretrainConfig, ShapeConfig
from train_jobs.layout import Layout

TEXT = "def add(a, b):\n    return a + b\n\n\nclass Point:\n    def __init__(self, x, y):\n        self.x = x\n"


def config(layout: tuple[int, int, int], **changes: object) -> PretrainConfig:
    pipeline, tensor, data = layout
    values = {
        "model": ShapeConfig(layers=2, hidden=32, heads=4, context=32),
        "steps": 10,
        "global_batch": 8,
        "micro_batch": 2,
        "optimizer": OptimizerConfig(rate=3e-3, final_rate=3e-4, warmup_steps=2, clip=0.5),
        "fim": FimConfig(rate=0.5),
        "heldout_every": 1000,
        "checkpoint_every": 5,
        "keep_checkpoints": 2,
        "layout": Layout(pipeline=pipeline, tensor=tensor, data=data),
    }
    return PretrainConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose vocabulary two ranks do not divide, and one token shard."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = train_bpe(iter([TEXT] * 20), 301)
    (folder / "tokenizer.json").write_text(tokenizer.json_text)
    generator = np.random.default_rng(0)
    lines = TEXT.splitlines(keepends=True)
    documents = []
    for _ in range(60):
        text = "".join(generator.choice(lines) for _ in range(12))
        documents.append(np.array([*tokenizer.encode(text), 0], dtype="uint16"))
    TokenShardWriter("uint16").write(ArtifactWriter(str(folder)), "train", documents)
    return folder


def _process(
    rank: int, world: int, port: int, data: str, output: str, settings: str, stop_at: int, awaited: str
) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), DS_ACCELERATOR="cpu"
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    import torch.distributed as dist

    from train_jobs.job import Job
    from train_jobs.loop.worker import work

    def maybe_die(step: int) -> None:
        if step == stop_at:
            deadline = time.monotonic() + PATIENCE
            while awaited and not (Path(output) / awaited).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            os._exit(9)

    dist.init_process_group("gloo", rank=rank, world_size=world)
    job = Job(
        config=PretrainConfig.model_validate_json(settings),
        train=(f"{data}/train",),
        heldout=(),
        dtype="uint16",
        vocabulary=301,
        tokenizer=f"{data}/tokenizer.json",
        output=output,
    )
    work(job, maybe_die)
    os._exit(0)


def train(
    data: Path, output: Path, settings: PretrainConfig, stop_at: int = -1, awaited: str = "", code: int = 0
) -> list[dict[str, float]]:
    """Run real processes to the end (or until they die) and return the logged steps."""
    port = free_port()
    output.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    world = settings.layout.ranks
    arguments = (world, port, str(data), str(output), settings.model_dump_json(), stop_at, awaited)
    processes = [context.Process(target=_process, args=(rank, *arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=PATIENCE)
    codes = [process.exitcode for process in processes]
    assert codes == [9 if stop_at >= 0 else code] * world, codes
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    output = tmp_path_factory.mktemp("reference")
    return output, train(data, output, config((1, 1, 1)))


@pytest.mark.slow
def test_training_leaves_no_shared_memory_behind(data, tmp_path) -> None:
    before = set(os.listdir("/dev/shm"))
    train(data, tmp_path, config((1, 1, 2), steps=1))
    assert set(os.listdir("/dev/shm")) - before == set()


@pytest.mark.slow
def test_training_learns(reference) -> None:
    losses = [row["loss"] for row in reference[1]]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_with_the_same_bytes(data, tmp_path, reference) -> None:
    output = tmp_path / "run"
    train(data, output, config((1, 1, 1)), stop_at=7, awaited="checkpoints/step-5/manifest.json")
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-5"]
    rows = train(data, output, config((1, 1, 1)))
    assert rows == reference[1]
    for name in ("model/model.safetensors", "checkpoints/step-10/stage-0.safetensors"):
        assert (output / name).read_bytes() == (reference[0] / name).read_bytes()


@pytest.mark.slow
def test_checkpoint_cut_short_is_never_chosen(data, tmp_path, reference) -> None:
    output = tmp_path / "run"
    train(data, output, config((1, 1, 1)), stop_at=5)  # dies as soon as the file of step 5 is begun
    partial = output / "checkpoints" / "step-9"
    partial.mkdir(parents=True)
    (partial / "stage-0.safetensors").write_bytes(b"half")
    rows = train(data, output, config((1, 1, 1)))
    assert rows == reference[1]
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-10", "step-5"]


@pytest.fixture(scope="module")
def poisoned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data with a long run of noise in the middle: windows whose loss explodes."""
    folder = tmp_path_factory.mktemp("poisoned")
    (folder / "tokenizer.json").write_text((data / "tokenizer.json").read_text())
    good = np.fromfile(data / "train.bin", dtype="uint16")
    noise = np.random.default_rng(1).integers(0, 301, 300).astype("uint16")
    documents = [np.concatenate([good, good, good]), noise, np.concatenate([good, good, good])]
    TokenShardWriter("uint16").write(ArtifactWriter(str(folder)), "train", documents)
    return folder


EXPLODING = {"steps": 160, "checkpoint_every": 40, "global_batch": 2, "micro_batch": 1, "bad_loss_margin": 1.0}


@pytest.mark.slow
def test_bad_batches_are_left_out_the_same_way_by_skipping_and_by_going_back(poisoned, tmp_path) -> None:
    rows = train(poisoned, tmp_path / "skip", config((2, 1, 1), **EXPLODING, bad_loss="skip"))
    skipped = [json.loads(line) for line in (tmp_path / "skip" / "skipped.jsonl").read_text().splitlines()]
    assert 0 < len(skipped) < 10
    assert [row["step"] for row in rows if "loss" not in row] == [row["step"] for row in skipped]
    assert all(row["samples"] == [2 * (row["step"] - 1), 2 * row["step"] - 1] for row in skipped)
    train(poisoned, tmp_path / "back", config((2, 1, 1), **EXPLODING, bad_loss="rollback"))
    for name in (
        "metrics.jsonl",
        "skipped.jsonl",
        "model/model.safetensors",
        "checkpoints/step-160/stage-1.safetensors",
    ):
        assert (tmp_path / "skip" / name).read_bytes() == (tmp_path / "back" / name).read_bytes(), name


@pytest.mark.slow
def test_killed_run_leaves_the_same_batches_out(poisoned, tmp_path) -> None:
    settings = config((1, 1, 2), **EXPLODING, bad_loss="skip", zero=3)
    train(poisoned, tmp_path / "whole", settings)
    train(poisoned, tmp_path / "killed", settings, stop_at=130, awaited="checkpoints/step-120/manifest.json")
    train(poisoned, tmp_path / "killed", settings)
    assert (tmp_path / "whole" / "skipped.jsonl").read_text().count("\n") > 0
    for name in ("metrics.jsonl", "skipped.jsonl", "model/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_the_run_and_its_samples_are_written_down(data, tmp_path) -> None:
    wild = OptimizerConfig(rate=1e30, final_rate=1e30, warmup_steps=0)
    train(data, tmp_path, config((1, 1, 1), optimizer=wild), code=1)
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert rows == [{"step": 2, "samples": [8, 15], "loss": "nan"}]
    assert not (tmp_path / "model").exists()


def made(folder: Path, step: int, loss: float | None = None) -> None:
    target = folder / f"step-{step}"
    checkpoint.write_share(target, "stage-0", {"a.master": torch.full((3,), float(step))})
    assert checkpoint.write_manifest(
        target, ["stage-0"], {"step": step} | ({} if loss is None else {"heldout_loss": loss})
    )


def test_policy_keeps_the_newest_each_nth_and_the_best(tmp_path) -> None:
    for step, loss in ((10, 3.0), (20, 1.5), (30, None), (40, 2.0), (50, 1.5), (60, None)):
        made(tmp_path, step, loss)
        checkpoint.prune(tmp_path, last=1, every=40, best=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-20", "step-40", "step-60"]
    with checkpoint.opened(checkpoint.latest(tmp_path)) as tensors:
        assert tensors.read("a.master", 0, 0, 3).tolist() == [60.0] * 3


def test_manifest_waits_for_every_stage(tmp_path) -> None:
    checkpoint.write_share(tmp_path / "step-1", "stage-1", {"a.master": torch.zeros(1)})
    assert not checkpoint.write_manifest(tmp_path / "step-1", ["stage-0", "stage-1"], {"step": 1})
    assert checkpoint.latest(tmp_path) is None
    checkpoint.write_share(tmp_path / "step-1", "stage-0", {"b.master": torch.zeros(1)})
    assert checkpoint.write_manifest(tmp_path / "step-1", ["stage-0", "stage-1"], {"step": 1})
    assert sorted(path.name for path in (tmp_path / "step-1").iterdir()) == [
        "manifest.json",
        "stage-0.safetensors",
        "stage-1.safetensors",
    ]


def test_disk_that_takes_no_more_is_told_in_one_line(tmp_path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match=r"stage-0.safetensors: cannot be written: [^\n]+$"):
            checkpoint.write_share(tmp_path / "step-1", "stage-0", {"a.master": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_changed_checkpoint_is_refused(tmp_path) -> None:
    made(tmp_path, 7)
    file = tmp_path / "step-7" / "stage-0.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="does not match its checksum"):
        checkpoint.verified(tmp_path / "step-7")


@pytest.mark.parametrize(
    ("layout", "batch", "complaint"),
    [
        (Layout(pipeline=3), 8, "layers = 2 does not divide into layout.pipeline = 3 stages"),
        (Layout(tensor=3), 8, "heads = 4 does not divide into layout.tensor = 3 ranks"),
        (Layout(data=3), 8, "global_batch = 8 is no multiple of layout.data × micro_batch = 6"),
    ],
)
def test_layout_that_does_not_divide_is_told_in_one_line(layout: Layout, batch: int, complaint: str) -> None:
    shape = config((1, 1, 1)).shape(vocabulary=301)
    with pytest.raises(UserError, match=complaint):
        layout.check(shape, batch, 2)
