"""What a training worker is told. Imports neither torch nor DeepSpeed: Ray's driver and controller hold it too."""

import os
from dataclasses import dataclass, replace
from typing import Final

from starloom.fetched import local_copy
from starloom.model.config import ModelConfig
from train_jobs.config import PretrainConfig

SKIPPED: Final = "skipped.jsonl"  # in the output: steps that were left out


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs, picklable; paths are on storage that all workers share, or `here` makes them so.

    `published` is the output's URL where the root is an object store; `origins` are the URLs that local paths were
    copied from.
    """

    config: PretrainConfig
    train: tuple[str, ...]  # stems of token shards
    heldout: tuple[str, ...]
    dtype: str
    vocabulary: int
    tokenizer: str
    output: str
    initial: str = ""  # a model folder to start from
    turns: tuple[int, int] | None = None  # ids that open and close what is trained on; None: everything is
    base: str = ""  # the URL of `initial`, where it has one
    published: str = ""
    origins: tuple[tuple[str, str], ...] = ()

    @property
    def shape(self) -> ModelConfig:
        """The model's shape."""
        return self.config.shape(self.vocabulary)

    def here(self, output: str) -> "Job":
        """The job on a node that shares no folder with the others: its inputs fetched, its output in a folder there."""
        if not self.published:
            return self
        copies = {path: str(local_copy(url)) for path, url in self.origins}

        def moved(path: str) -> str:
            inside = [known for known in copies if path == known or path.startswith(known + os.sep)]
            return copies[inside[0]] + path.removeprefix(inside[0]) if inside else path

        return replace(
            self,
            train=tuple(map(moved, self.train)),
            heldout=tuple(map(moved, self.heldout)),
            tokenizer=moved(self.tokenizer),
            initial=moved(self.initial),
            base=dict(self.origins).get(self.initial, ""),
            output=output,
        )
