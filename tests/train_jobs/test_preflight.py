"""What is told before the first step."""

from pathlib import Path

import pytest

from starloom.errors import UserError
from train_jobs.config import PretrainConfig, ShapeConfig
from train_jobs.job import Job
from train_jobs.layout import Layout
from train_jobs.planning.preflight import check_disk, check_nodes, check_shared


def job(output: Path, **changes: object) -> Job:
    shape = ShapeConfig(layers=24, hidden=2048, heads=16, context=8192)
    config = PretrainConfig(model=shape, **changes)
    return Job(config, (), (), "uint16", 49152, "", str(output))


def test_checkpoints_that_the_disk_does_not_hold_are_told(tmp_path: Path) -> None:
    # 1.137 billion parameters: 12 bytes in each of four checkpoints, 4 in the export
    with pytest.raises(UserError, match=r"4 checkpoints and the exported model need 59\.1 GB, .* has 59\.0 GB free"):
        check_disk(job(tmp_path, keep_checkpoints=3), 59_000_000_000)
    check_disk(job(tmp_path, keep_checkpoints=3), 60_000_000_000)


def test_tensor_group_across_nodes_is_told() -> None:
    config = PretrainConfig(layout=Layout(tensor=4, data=4), use_gpu=True)
    with pytest.raises(UserError, match=r"layout\.tensor = 4: node b has room for 6 workers"):
        check_nodes(config, {"head": {"CPU": 8}, "a": {"GPU": 8}, "b": {"GPU": 6}, "c": {"GPU": 4}})
    check_nodes(config, {"head": {"CPU": 8}, "a": {"GPU": 8}, "b": {"GPU": 8}})
    check_nodes(PretrainConfig(layout=Layout(tensor=4), use_gpu=True), {"a": {"GPU": 6}, "b": {"GPU": 6}})


def test_too_few_gpus_are_told() -> None:
    with pytest.raises(UserError, match="16 workers need 16 GPUs, the cluster has 8"):
        check_nodes(
            PretrainConfig(layout=Layout(data=16), use_gpu=True, global_batch=16, micro_batch=1), {"a": {"GPU": 8}}
        )


@pytest.mark.slow
def test_folder_is_seen_and_writable_from_every_node(ray_cluster: str, tmp_path: Path) -> None:
    import ray

    nodes = ray.nodes()
    check_shared(tmp_path, nodes)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        check_shared(tmp_path / "missing", nodes)
