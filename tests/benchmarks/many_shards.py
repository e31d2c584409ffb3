"""A step that writes as many shards as it is told: for `bench_platform`, which asks how long a look at them takes."""

from starloom.config import Config
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


class ManyShardsConfig(Config):
    """How many."""

    shards: int


def run(config: ManyShardsConfig, context: StepContext) -> Outcome:
    """Write them, a byte each."""
    for number in range(config.shards):
        context.output.write_text(f"data/part-{number:06d}", "x")
    return Outcome(rows_out=config.shards)


STEP = Step(config=ManyShardsConfig, run=run, produces="shards", consumes={})

if __name__ == "__main__":
    main(STEP)
