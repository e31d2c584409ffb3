"""Pre-train a GPTBigCode model: Ray Train starts DeepSpeed pipeline × tensor × ZeRO data parallel workers."""

from typing import Any

from starloom.content import folder_state
from starloom.kinds import Model, Tokenizer, Tokens
from starloom.program import main
from starloom.step import Count, Outcome, Step, StepContext
from train_jobs.config import PretrainConfig
from train_jobs.loop.launch import pretrain


def run(config: PretrainConfig, context: StepContext) -> Outcome:
    """Train on a tokens artifact, write checkpoints of logical tensors, and export a model folder."""
    return pretrain(config, context)


def source_state(config: PretrainConfig) -> Any:
    """What the model folder holds that training starts from."""
    return folder_state(config.initial_model, setting="initial_model") if config.initial_model else None


STEP = Step(
    config=PretrainConfig,
    run=run,
    produces=Model.kind,
    version=2,
    source_state=source_state,
    consumes={Tokens.kind: Count.ONE, Tokenizer.kind: Count.ONE, Model.kind: Count.OPTIONAL},
)

if __name__ == "__main__":
    main(STEP)
