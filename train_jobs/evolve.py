"""Evolve instructions: a language model makes seed instructions harder and answers them (WizardCoder)."""

from starloom.kinds import Conversations
from starloom.program import main
from starloom.step import Outcome, Step, StepContext
from train_jobs.finetuning.config import EvolveConfig, files_state
from train_jobs.finetuning.evolution import evolve


def run(config: EvolveConfig, context: StepContext) -> Outcome:
    """Ask for harder instructions round by round and for answers to all; write conversations.jsonl."""
    return evolve(config, context)


def source_state(config: EvolveConfig) -> object:
    """The seed files' names, sizes and times."""
    return files_state(config.instructions, setting="instructions")


STEP = Step(config=EvolveConfig, run=run, produces=Conversations.kind, source_state=source_state, consumes={})

if __name__ == "__main__":
    main(STEP)
