"""Evolve instructions: a language model makes seed instructions harder and answers them (WizardCoder)."""

from starloom.content import files_state
from starloom.kinds import Conversations
from starloom.program import main
from starloom.step import Outcome, Step, StepContext
from starloom.storage import file_state
from train_jobs.finetuning.config import EvolveConfig, every_file
from train_jobs.finetuning.evolution import evolve


def run(config: EvolveConfig, context: StepContext) -> Outcome:
    """Ask for harder instructions round by round and for answers to all; write conversations.jsonl."""
    return evolve(config, context)


def source_state(config: EvolveConfig) -> object:
    """What is in the seed files."""
    return files_state(every_file(config.instructions, setting="instructions"))


def earlier_states(config: EvolveConfig) -> list[object]:
    """Their names, sizes and times, as before there were digests."""
    return [file_state(every_file(config.instructions, setting="instructions"))]


STEP = Step(
    config=EvolveConfig,
    run=run,
    produces=Conversations.kind,
    source_state=source_state,
    consumes={},
    earlier_states=earlier_states,
)

if __name__ == "__main__":
    main(STEP)
