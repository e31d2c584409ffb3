"""What fine-tuning and the evolution of instructions are told."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from starloom.config import Config, added, runtime
from starloom.storage import matching_files
from train_jobs.config import LoopConfig, OptimizerConfig


class FinetuneConfig(LoopConfig):
    """Full fine-tuning of a `model` artifact, or of a folder."""

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
    bad_loss: Literal["stop", "skip", "rollback"] = added("stop")
    bad_loss_margin: float = added(0.0, ge=0)
    keep_every: int = added(0, ge=0)
    keep_best: bool = added(False)
    micro_batch: int = runtime(1, gt=0)
    zero: Literal[0, 1, 2, 3] = runtime(2)


class EvolveConfig(Config):
    """What is evolved, and by which endpoint. The key is taken from the environment and is written nowhere."""

    instructions: list[str] = Field(min_length=1)  # files of JSON lines, or patterns: {"instruction": "..."} each
    url: str = Field(min_length=1)  # any OpenAI-compatible one, such as http://127.0.0.1:8000/v1
    model: str = Field(min_length=1)
    rounds: int = Field(3, ge=1)
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(1024, gt=0)
    seed: int = 0
    api_key_variable: str = runtime("OPENAI_API_KEY")
    at_once: int = runtime(8, gt=0)  # requests
    attempts: int = runtime(6, gt=0)  # of a request that meets a busy or broken server
    timeout_seconds: float = runtime(300.0, gt=0)


def every_file(patterns: Sequence[str], *, setting: str) -> list[str]:
    """The files that paths or patterns name, each once, in order.

    Raises:
        UserError: one of them names none.
    """
    return list(dict.fromkeys(name for one in patterns for name in matching_files(one, setting=setting)))
