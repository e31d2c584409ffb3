"""Fine-tune a model on conversations: chat and instructions, the loss on what the assistant says."""

from pathlib import Path

from starloom.kinds import Conversations, Corpus, Model
from starloom.program import main
from starloom.step import Count, Outcome, Step, StepContext
from train_jobs.finetuning.config import FinetuneConfig, files_state


def run(config: FinetuneConfig, context: StepContext) -> Outcome:
    """Pack the conversations, train, and export a folder whose tokenizer and template are those of the chat."""
    # brings torch: not for those who only look at the config
    from train_jobs.finetuning.run import finetune

    return finetune(config, context)


def source_state(config: FinetuneConfig) -> object:
    """The files' names, sizes and times: other conversations make another model."""
    model = Path(config.model_folder) / "config.json"
    return files_state(config.conversations, setting="conversations", beside=[model] if model.is_file() else [])


STEP = Step(
    config=FinetuneConfig,
    run=run,
    produces=Model.kind,
    version=2,
    source_state=source_state,
    consumes={Model.kind: Count.OPTIONAL, Conversations.kind: Count.ANY, Corpus.kind: Count.OPTIONAL},
)

if __name__ == "__main__":
    main(STEP)
