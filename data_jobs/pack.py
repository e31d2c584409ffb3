"""Pack the corpus into memory-mapped token shards, with a held-out split by repository."""

from typing import Literal

from pydantic import Field

from data_jobs.documents import DocumentConfig
from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main


class PackConfig(Config):
    """How documents look and which repositories are held out."""

    seed: int = 0
    heldout_share: float = Field(0.05, ge=0, lt=1)  # of repositories
    dtype: Literal["auto", "uint16", "uint32"] = "auto"
    documents: DocumentConfig = DocumentConfig()
    groups: Literal["none", "language", "source"] = "none"  # shards apart, so that training can weigh them


def run(config: PackConfig, context: StepContext) -> Outcome:
    """Encode every document and write token shards; the held-out repositories go to shards of their own."""
    from data_jobs.packing import pack

    return pack(config, context)


STEP = Step(config=PackConfig, run=run, produces="tokens", version=2)

if __name__ == "__main__":
    main(STEP)
