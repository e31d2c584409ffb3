"""What a training worker is told. Imports neither torch nor DeepSpeed: Ray's driver and controller hold it too."""

from dataclasses import dataclass

from starloom.model.config import ModelConfig
from train_jobs.config import PretrainConfig


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs, picklable; paths are on storage that all workers share."""

    config: PretrainConfig
    train: tuple[str, ...]  # stems of token shards
    heldout: tuple[str, ...]
    dtype: str
    vocabulary: int
    tokenizer: str
    output: str
    initial: str = ""  # a model folder to start from
    turns: tuple[int, int] | None = None  # ids that open and close what is trained on; None: everything is

    @property
    def shape(self) -> ModelConfig:
        """The model's shape."""
        return self.config.shape(self.vocabulary)
