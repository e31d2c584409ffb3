"""The worker loop in real processes: killed, it goes on with the same bytes; a layout that cannot be is refused."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch.multiprocessing as multiprocessing

from data_jobs.tokenization import train_bpe
from starloom.artifact import ArtifactWriter
from starloom.errors import UserError
from starloom.tokens import FimConfig, TokenShardWriter
from train_jobs.layout import Layout
from train_jobs.pretrain import OptimizerConfig, PretrainConfig, ShapeConfig

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


def _process(rank: int, world: int, port: int, data: str, output: str, settings: str, stop_at: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), DS_ACCELERATOR="cpu"
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    import torch.distributed as dist

    from train_jobs.job import Job
    from train_jobs.worker import work

    def maybe_die(step: int) -> None:
        if step == stop_at:
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


def train(data: Path, output: Path, settings: PretrainConfig, stop_at: int = -1) -> list[dict[str, float]]:
    """Run real processes to the end (or until they die) and return the logged steps."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    world = settings.layout.ranks
    arguments = (world, port, str(data), str(output), settings.model_dump_json(), stop_at)
    processes = [context.Process(target=_process, args=(rank, *arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    codes = [process.exitcode for process in processes]
    assert codes == [9 if stop_at >= 0 else 0] * world, codes
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    output = tmp_path_factory.mktemp("reference")
    return output, train(data, output, config((1, 1, 1)))


@pytest.mark.slow
def test_training_learns(reference) -> None:
    losses = [row["loss"] for row in reference[1]]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_with_the_same_bytes(data, tmp_path, reference) -> None:
    output = tmp_path / "run"
    train(data, output, config((1, 1, 1)), stop_at=7)
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-5"]
    rows = train(data, output, config((1, 1, 1)))
    assert rows == reference[1]
    for name in ("model/model.safetensors", "checkpoints/step-10/stage-0.safetensors"):
        assert (output / name).read_bytes() == (reference[0] / name).read_bytes()


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
