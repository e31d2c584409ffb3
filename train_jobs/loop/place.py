"""Where a training process stands on the three axes."""

from dataclasses import dataclass

from train_jobs.layout import Layout
from train_jobs.parallel.draws import Draws
from train_jobs.parallel.layers import TensorSlice


@dataclass(frozen=True)
class Place:
    """This process on the three axes."""

    stage: int
    data: int
    tensor: TensorSlice
    layout: Layout
    draws: Draws  # of this process's dropout

    @property
    def holds_data(self) -> bool:
        """Only the first and the last stage see tokens."""
        return self.stage in (0, self.layout.pipeline - 1)

    @property
    def writes_stage(self) -> bool:
        """One process per stage writes its tensors."""
        return self.data == 0 and self.tensor.rank == 0
