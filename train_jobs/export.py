"""Export any checkpoint of a run as a `GPTBigCodeForCausalLM` folder, with a card of what made it."""

from typing import Literal

from starloom.config import Config, added
from starloom.governance.publisher import Publisher
from starloom.kinds import Corpus, Model
from starloom.program import main
from starloom.step import OTHERS, Count, Outcome, Step, StepContext


class ExportConfig(Config):
    """Which checkpoint of the `model` among `needs`; a `corpus` and an `evaluation` beside it go into the card."""

    checkpoint: int | Literal["last", "best"] = "last"  # a step's number; best: of the least held-out loss
    publisher: Publisher | None = added(None)  # who passes it on: a whole card, and the licence's text beside it


def run(config: ExportConfig, context: StepContext) -> Outcome:
    """Write the folder `model/`; serving and fine-tuning take it as they take the run's own."""
    from train_jobs.checkpoints.export import export  # brings torch

    return export(config.checkpoint, config.publisher, context)


STEP = Step(
    config=ExportConfig,
    run=run,
    produces=Model.kind,
    consumes={Model.kind: Count.ONE, Corpus.kind: Count.OPTIONAL, OTHERS: Count.ANY},
)

if __name__ == "__main__":
    main(STEP)
