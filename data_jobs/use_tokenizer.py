"""Take the tokenizer of a model that is to be trained further, instead of training one."""

from pathlib import Path

from pydantic import Field

from starloom.config import Config
from starloom.content import digest_of
from starloom.kinds import Tokenizer
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


class UseTokenizerConfig(Config):
    """Where it is."""

    folder: str = Field(min_length=1)  # a model's: it holds tokenizer.json


def run(config: UseTokenizerConfig, context: StepContext) -> Outcome:
    """Copy tokenizer.json and its settings; it must know the end of the text and fill-in-the-middle."""
    from starloom.tokenizer import END_OF_TEXT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, load_tokenizer

    tokenizer = load_tokenizer(config.folder)
    for token in (END_OF_TEXT, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX):
        tokenizer.special(token)
    context.output.write_text(Tokenizer.FILE, tokenizer.json_text)
    settings = Path(config.folder) / Tokenizer.SETTINGS
    if settings.is_file():
        context.output.write_text(Tokenizer.SETTINGS, settings.read_text(encoding="utf-8"))
    return Outcome(rows_in=tokenizer.size, rows_out=tokenizer.size)


def source_state(config: UseTokenizerConfig) -> object:
    """What is in the file."""
    file = Path(config.folder) / Tokenizer.FILE
    return digest_of(file) if file.is_file() else None


def earlier_states(config: UseTokenizerConfig) -> list[object]:
    """The file's size and time, as before there were digests."""
    file = Path(config.folder) / Tokenizer.FILE
    return [[file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else None]


STEP = Step(
    config=UseTokenizerConfig,
    run=run,
    produces=Tokenizer.kind,
    source_state=source_state,
    consumes={},
    earlier_states=earlier_states,
)

if __name__ == "__main__":
    main(STEP)
