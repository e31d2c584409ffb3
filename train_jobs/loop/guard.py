"""What happens when a loss is not finite or explodes: stop, skip the update, or go back and leave the batch out.

The decision falls before the optimizer's step, in all processes alike, so that a bad batch never touches the weights.
Bad steps and their samples are written down; a run that goes on, after a kill or after going back, leaves the same
ones out and ends with the same bytes.
"""

import json
import math
from collections import deque
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from starloom import jsonlines
from starloom.errors import RunError
from starloom.kinds import Model
from train_jobs.job import SKIPPED, Job
from train_jobs.parallel.deepspeed_internals import last_loss, left_out, refuse_updates
from train_jobs.parallel.stageless import StagelessEngine

MEMORY: Final = 100  # losses whose mean an exploding one is compared with
LEAST: Final = 10  # of them, before any is called exploding


class BadLossError(Exception):
    """A bad loss whose policy is to go back to the last checkpoint."""


class LossGuard:
    """Watches one process's engine; every decision is a collective one."""

    def __init__(self, job: Job, engine: Any, step: int) -> None:
        """`step` updates were made before: their losses are what the next one is compared with."""
        self._config, self._engine = job.config, engine
        self._file = Path(job.output) / SKIPPED
        self._seen = deque(_losses(Path(job.output) / Model.METRICS, step), maxlen=MEMORY)
        self._bad: float | None = None
        self._skipped = {int(row["step"]) for row in jsonlines.read_log(self._file)}
        dist.barrier()  # nobody writes before all have read
        refuse_updates(engine, self._refuses)

    def leaves_out(self, step: int) -> bool:
        """Whether step number `step` (counted from 1) was bad before and is left out without computing it."""
        return self._config.bad_loss == "rollback" and step in self._skipped

    def updates(self, step: int) -> int:
        """Updates that were made up to and with that step."""
        return step - sum(bad <= step for bad in self._skipped)

    def check(self, step: int, loss: float) -> bool:
        """Whether step number `step` made an update; carries out the policy when it did not.

        Raises:
            RunError: the policy is to stop.
            BadLossError: the policy is to go back.
        """
        if not left_out(self._engine.optimizer):
            self._seen.append(loss)
            return True
        # without a bad loss it was the gradient: DeepSpeed makes no update of what is not finite
        what = "loss" if self._bad is not None else "gradient"
        bad, self._bad = self._bad if self._bad is not None else math.nan, None
        first = (step - 1) * self._config.global_batch
        samples = [first, first + self._config.global_batch - 1]
        if dist.get_rank() == 0 and step not in self._skipped:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as file:
                shown = bad if math.isfinite(bad) else str(bad)
                file.write(json.dumps({"step": step, "samples": samples, what: shown}) + "\n")
        dist.barrier()
        self._skipped.add(step)
        if self._config.bad_loss == "stop":
            raise RunError(
                f"step {step}: the {what} is {bad:g}; samples {samples[0]} to {samples[1]}, see {self._file.name}; "
                "lower optimizer.rate, look at these samples, or set bad_loss = 'skip' or 'rollback'"
            )
        if self._config.bad_loss == "rollback":
            raise BadLossError(f"step {step}")
        return False

    def _refuses(self) -> bool:
        """Before the optimizer's step: whether the global batch's loss is bad."""
        loss = _loss(self._engine)
        # sum, count, and how many are not finite, over all processes that have a loss
        finite = loss is not None and math.isfinite(loss)
        mine = [loss if finite and loss is not None else 0.0, float(finite), float(loss is not None and not finite)]
        together = torch.tensor(mine, dtype=torch.float64, device=self._engine.device)
        dist.all_reduce(together)
        total, count, broken = together.tolist()
        mean = math.nan if broken else total / count
        margin = self._config.bad_loss_margin
        exploded = margin > 0 and len(self._seen) >= LEAST and mean > sum(self._seen) / len(self._seen) + margin
        self._bad = mean if broken or exploded else None
        return self._bad is not None


def _losses(metrics: Path, step: int) -> list[float]:
    rows = jsonlines.read_log(metrics) if step else []
    return [row["loss"] for row in rows if "loss" in row and row["step"] <= step]


def _loss(engine: Any) -> float | None:
    """This process's mean over the micro batches of the step; None where a later stage has it."""
    if isinstance(engine, StagelessEngine):
        return float(torch.stack(engine.losses).mean())
    return last_loss(engine)
