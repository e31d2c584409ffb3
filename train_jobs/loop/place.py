"""Where a training process stands on the three axes."""

from dataclasses import dataclass

from train_jobs.layout import Layout
from train_jobs.parallel.layers import MicroBatch, TensorSlice


@dataclass(frozen=True)
class Place:
    """This process on the three axes."""

    stage: int
    data: int
    tensor: TensorSlice
    layout: Layout
    source: MicroBatch  # what this process's layers ask

    @property
    def holds_data(self) -> bool:
        """Only the first and the last stage see tokens."""
        return self.stage in (0, self.layout.pipeline - 1)
