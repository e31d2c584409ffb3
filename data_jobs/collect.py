"""Collect source files into corpus shards: text is read once here and written once more by `data_jobs.curate`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from data_jobs.sources.archive import ArchiveSource
from data_jobs.sources.folder import FolderSource, StandardLibrarySource
from data_jobs.sources.git import GitSource
from data_jobs.sources.history import GitHistorySource
from data_jobs.sources.issues import GitHubIssuesSource
from data_jobs.sources.tables import JsonLinesSource, ParquetSource
from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main

AnySource = Annotated[
    FolderSource
    | StandardLibrarySource
    | GitSource
    | GitHistorySource
    | GitHubIssuesSource
    | ArchiveSource
    | ParquetSource
    | JsonLinesSource,
    Field(discriminator="kind"),
]


class CollectConfig(Config):
    """What is collected, and what never comes in."""

    sources: tuple[AnySource, ...] = Field(min_length=1)
    languages: str | None = None  # a table like data_jobs/languages.toml
    max_file_bytes: int = Field(1 << 20, gt=0)
    shard_megabytes: float = Field(8.0, gt=0)  # of source text; a shard is the unit of work and of resuming
    notebooks: Literal["structured", "script", "both", "drop"] = "structured"
    nameless: Literal["drop", "magika"] = "drop"  # files whose name and first line tell no language


def run(config: CollectConfig, context: StepContext) -> Outcome:
    """Read the sources into Parquet shards; what does not come in is in dropped.parquet with its reason."""
    from data_jobs.collecting import collect

    return collect(config, context)


def source_state(config: CollectConfig) -> Any:
    """What changes when a source does: sizes and times of files, commits of repositories."""
    from data_jobs.languages import table_state

    return [[source.state() for source in config.sources], table_state(config.languages)]


STEP = Step(config=CollectConfig, run=run, produces="collected", version=3, source_state=source_state)

if __name__ == "__main__":
    main(STEP)
