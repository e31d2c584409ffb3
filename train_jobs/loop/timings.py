"""Where a step's time goes: each instruction of the pipeline's schedule is timed where it is carried out."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import torch

from train_jobs.parallel.deepspeed_internals import time_instructions
from train_jobs.parallel.stageless import StagelessEngine

# DeepSpeed's instructions, by what they are for. A receive or a send waits for the neighbour: the pipeline's bubble.
PARTS: Final = {
    "LoadMicroBatch": "data",
    "ForwardPass": "forward",
    "BackwardPass": "backward",
    "SendActivation": "neighbours",
    "RecvActivation": "neighbours",
    "SendGrad": "neighbours",
    "RecvGrad": "neighbours",
    "ReduceGrads": "reduce",
    "ReduceTiedGrads": "reduce",
    "OptimizerStep": "optimizer",
}


class PartTimer:
    """Seconds of each part since the last `take`.

    On a GPU the seconds are the device's, between events on its stream, so that timing adds no synchronization to the
    step; `take` waits for the device once.
    """

    def __init__(self, engine: Any) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._on_gpu = engine.device.type == "cuda"
        self.current = ("", time.time())  # the part that is being carried out, and since when
        if isinstance(engine, StagelessEngine):
            for method, part in (("forward", "forward"), ("backward", "backward"), ("step", "optimizer")):
                setattr(engine.inner, method, self._timed(part, getattr(engine.inner, method)))
        else:
            time_instructions(engine, lambda kind, method: self._timed(PARTS.get(kind, "other"), method))

    def take(self) -> dict[str, float]:
        """Seconds by part, in the order of `PARTS`, and start again from zero."""
        if self._pending:
            torch.cuda.synchronize()
            for part, begin, end in self._pending:
                self._seconds[part] += begin.elapsed_time(end) / 1000
            self._pending.clear()
        taken = {part: self._seconds[part] for part in dict.fromkeys(PARTS.values()) if part in self._seconds}
        self._seconds.clear()
        return taken

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def on_cpu(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            self.current = (part, time.time())
            result = function(*arguments, **options)
            self._seconds[part] += time.perf_counter() - started
            return result

        def on_gpu(*arguments: Any, **options: Any) -> Any:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            self.current = (part, time.time())
            result = function(*arguments, **options)
            end.record()
            self._pending.append((part, begin, end))
            return result

        return on_gpu if self._on_gpu else on_cpu
