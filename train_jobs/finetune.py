"""Fine-tune a model on conversations: chat and instructions, the loss on what the assistant says."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Literal

from pydantic import Field

from starloom.config import Config, runtime
from starloom.errors import UserError
from starloom.step import Outcome, Step, StepContext, main
from train_jobs.layout import Layout, Recompute
from train_jobs.pretrain import OptimizerConfig


class FinetuneConfig(Config):
    """Full fine-tuning of a `model` artifact, or of a folder. Fields that training has too mean the same there."""

    # with what `conversations` steps among `needs` made; files of JSON lines, or patterns:
    conversations: list[str] = []  # {"messages": [{"role", "content"}, ...]}
    commits: bool = False  # also the commits of the `corpus` among `needs`, as instructions
    model_folder: str = ""  # a GPTBigCode folder, where no `model` is among `needs`
    context: int = Field(1024, gt=1)  # at most the model's
    epochs: float = Field(3.0, gt=0)
    global_batch: int = Field(256, gt=0)  # windows of `context` tokens
    optimizer: OptimizerConfig = OptimizerConfig(rate=2e-5, final_rate=2e-6, warmup_steps=20)
    dropout: float = Field(0.0, ge=0, lt=1)
    heldout_share: float = Field(0.05, ge=0, lt=1)  # of the conversations
    heldout_every: int = Field(50, gt=0)
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = Field(100, gt=0)
    keep_checkpoints: int = Field(1, ge=1)
    log_every: int = runtime(10, gt=0)
    micro_batch: int = runtime(1, gt=0)
    layout: Layout = runtime(Layout())
    zero: Literal[0, 1, 2, 3] = runtime(2)
    offload: bool = runtime(False)
    attention: Literal["sdpa", "flash_attn", "flash_attn_4"] = runtime("sdpa")
    recompute: Recompute = runtime("none")
    cpus_per_worker: float = runtime(1.0, gt=0)
    threads_per_worker: int = runtime(1, gt=0)
    use_gpu: bool = runtime(False)
    max_failures: int = runtime(2, ge=0)


def run(config: FinetuneConfig, context: StepContext) -> Outcome:
    """Pack the conversations, train, and export a folder whose tokenizer and template are those of the chat."""
    from train_jobs.finetuning.run import finetune

    return finetune(config, context)


def matching_files(patterns: Sequence[str]) -> list[str]:
    """The files that paths or patterns name, each once, in order; `UserError` when one names none."""
    found: dict[str, None] = {}
    for pattern in patterns:
        names = sorted(glob(pattern, recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not names:
            raise UserError(f"conversations: {pattern}: no such file")
        found.update(dict.fromkeys(names))
    return list(found)


def source_state(config: FinetuneConfig) -> object:
    """The files' names, sizes and times: other conversations make another model."""
    model = Path(config.model_folder) / "config.json"
    files = [*map(Path, matching_files(config.conversations)), *([model] if model.is_file() else [])]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


STEP = Step(config=FinetuneConfig, run=run, produces="model", source_state=source_state)

if __name__ == "__main__":
    main(STEP)
