"""Pre-train a GPTBigCode model: Ray Train starts DeepSpeed pipeline × tensor × ZeRO data parallel workers."""

from starloom.kinds import Model, Tokenizer, Tokens
from starloom.program import main
from starloom.step import Count, Outcome, Step, StepContext
from train_jobs.config import PretrainConfig
from train_jobs.loop.launch import pretrain


def run(config: PretrainConfig, context: StepContext) -> Outcome:
    """Train on a tokens artifact, write checkpoints of logical tensors, and export a model folder."""
    return pretrain(config, context)


STEP = Step(
    config=PretrainConfig,
    run=run,
    produces=Model.kind,
    version=2,
    consumes={Tokens.kind: Count.ONE, Tokenizer.kind: Count.ONE, Model.kind: Count.OPTIONAL},
)

if __name__ == "__main__":
    main(STEP)
