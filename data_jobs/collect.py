"""Collect source files into corpus shards: text is read once here and written once more by `data_jobs.curate`."""

from typing import Annotated, Any

from pydantic import Field

from data_jobs.sources.folder import FolderSource, StandardLibrarySource
from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main

AnySource = Annotated[FolderSource | StandardLibrarySource, Field(discriminator="kind")]


class CollectConfig(Config):
    """What is collected, and what never comes in."""

    sources: tuple[AnySource, ...] = Field(min_length=1)
    languages: str | None = None  # a table like data_jobs/languages.toml
    max_file_bytes: int = Field(1 << 20, gt=0)
    shard_megabytes: float = Field(8.0, gt=0)  # of source text; a shard is the unit of work and of resuming


def run(config: CollectConfig, context: StepContext) -> Outcome:
    """Read the sources into Parquet shards; what does not come in is in dropped.parquet with its reason."""
    from data_jobs.collecting import collect

    return collect(config, context)


def source_state(config: CollectConfig) -> Any:
    """A hash over path, size and time of change of every file, so that a changed source makes the step stale."""
    from data_jobs.listing import fingerprint_sources

    return fingerprint_sources(config.sources)


STEP = Step(config=CollectConfig, run=run, produces="collected", source_state=source_state)

if __name__ == "__main__":
    main(STEP)
