"""The process of one part of a model that is cut: ``python -m serve_apps.engine.tensor_part PIPE PARENT``."""

import os
import sys
import threading
import time
from multiprocessing.connection import Connection

import torch

from serve_apps.engine.tensor_parallel import take_part, told

LOOK_SECONDS = 1.0


def main(pipe_number: int, parent: int) -> None:
    """Steps until the pipe ends."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)  # on the CPU the parts share the cores
    with Connection(pipe_number) as pipe:
        runner = take_part(pipe)
        while True:
            try:
                pieces = told(pipe)
            except EOFError:
                return
            runner.compute(pieces)


def _end_with(parent: int) -> None:
    """A sum whose other end was killed may never return."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
