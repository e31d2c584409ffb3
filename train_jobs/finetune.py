"""Fine-tune a model on conversations: chat and instructions, the loss on what the assistant says."""

from pathlib import Path

from starloom.content import files_state, folder_state
from starloom.kinds import Conversations, Corpus, Model
from starloom.program import main
from starloom.step import Count, Outcome, Step, StepContext
from starloom.storage import file_state
from train_jobs.finetuning.config import FinetuneConfig, every_file


def run(config: FinetuneConfig, context: StepContext) -> Outcome:
    """Pack the conversations, train, and export a folder whose tokenizer and template are those of the chat."""
    # brings torch: not for those who only look at the config
    from train_jobs.finetuning.run import finetune

    return finetune(config, context)


def source_state(config: FinetuneConfig) -> object:
    """What is in the conversations, and in the folder of the model that training begins from."""
    told = files_state(every_file(config.conversations, setting="conversations"))
    return [told, folder_state(config.model_folder, setting="model_folder") if config.model_folder else None]


def earlier_states(config: FinetuneConfig) -> list[object]:
    """Names, sizes and times, as before there were digests; of the model its config.json's alone."""
    model = Path(config.model_folder) / "config.json"
    names = every_file(config.conversations, setting="conversations")
    return [file_state([*names, *([str(model)] if model.is_file() else [])])]


STEP = Step(
    config=FinetuneConfig,
    run=run,
    produces=Model.kind,
    version=2,
    source_state=source_state,
    earlier_states=earlier_states,
    consumes={Model.kind: Count.OPTIONAL, Conversations.kind: Count.ANY, Corpus.kind: Count.OPTIONAL},
)

if __name__ == "__main__":
    main(STEP)
