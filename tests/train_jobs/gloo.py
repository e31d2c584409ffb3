"""Real training processes that speak gloo, without Ray: what many cases need is started once."""

import os
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as multiprocessing

from starloom.ports import free_port
from tests.patience import PATIENCE


def run(world: int, work: Callable[..., None], *arguments: Any, seconds: float = PATIENCE) -> None:
    """Call `work(rank, *arguments)` in that many processes, each of which must end well."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_process, args=(rank, world, port, work, *arguments), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * world, codes


def _process(rank: int, world: int, port: int, work: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), DS_ACCELERATOR="cpu"
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    work(rank, *arguments)
    os._exit(0)
