"""A step: how many lines the corpus has."""

from starloom.config import Config
from starloom.kinds import Corpus
from starloom.program import main
from starloom.step import Count, Outcome, Step, StepContext


class LinesConfig(Config):
    """No settings."""


def run(config: LinesConfig, context: StepContext) -> Outcome:
    """Count."""
    corpus = Corpus(context.only(Corpus.kind))
    texts = [text for shard in corpus.shards() for text in corpus.table(shard, ["content"])["content"].to_pylist()]
    context.output.write_json("lines.json", sum(text.count("\n") for text in texts))
    return Outcome(rows_in=len(texts), rows_out=1)


STEP = Step(config=LinesConfig, run=run, produces="acme-lines", consumes={Corpus.kind: Count.ONE})

if __name__ == "__main__":
    main(STEP)
