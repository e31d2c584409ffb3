"""Train the byte-level BPE tokenizer on a sample of the corpus."""

from pydantic import Field

from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main
from starloom.tokenizer import SPECIAL_TOKENS

BYTES = 256


class TrainTokenizerConfig(Config):
    """Size of the vocabulary, and how much text of each language it is trained on."""

    vocabulary: int = Field(49_152, ge=BYTES + len(SPECIAL_TOKENS), le=1 << 31)
    extra_special_tokens: tuple[str, ...] = ()  # after StarCoder's: <repo_name> and <file_sep> for repository documents
    language_megabytes: float = Field(100.0, gt=0)  # at most this much of each language, spread over all shards


def run(config: TrainTokenizerConfig, context: StepContext) -> Outcome:
    """Train a byte-level BPE with StarCoder's special tokens; write tokenizer.json."""
    from data_jobs.tokenization import train

    return train(config, context)


STEP = Step(config=TrainTokenizerConfig, run=run, produces="tokenizer")

if __name__ == "__main__":
    main(STEP)
