"""What a training run is told. Imports neither torch nor Ray, so that validation and plans are instant."""

from typing import Literal

from pydantic import Field, model_validator

from starloom.config import Config, added, runtime
from starloom.model.config import Activation, ModelConfig
from starloom.tokens.fim import FimConfig
from train_jobs.layout import Layout, Recompute


class OptimizerConfig(Config):
    """AdamW with a linear warm-up and a cosine decay to `final_rate`."""

    rate: float = Field(3e-4, gt=0)
    final_rate: float = Field(3e-5, ge=0)
    warmup_steps: int = Field(2000, ge=0)
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = Field(0.1, ge=0)
    clip: float = Field(1.0, gt=0)


class ShapeConfig(Config):
    """The model without its vocabulary, which the tokenizer gives."""

    layers: int = 4
    hidden: int = 192
    heads: int = 6
    context: int = 256
    dropout: float = Field(0.0, ge=0, lt=1)
    init_std: float = 0.02
    activation: Activation = added("gelu_pytorch_tanh")


class LoopConfig(Config):
    """What every run of the training loop is told, whatever it trains on."""

    global_batch: int = Field(16, gt=0)  # sequences
    optimizer: OptimizerConfig = OptimizerConfig()
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    bad_loss: Literal["stop", "skip", "rollback"] = "stop"  # when a loss is not finite, or explodes
    bad_loss_margin: float = Field(0.0, ge=0)  # nats above the mean of the last 100: exploding; 0: none is
    heldout_every: int = Field(100, gt=0)
    checkpoint_every: int = Field(100, gt=0)
    keep_checkpoints: int = Field(1, ge=1)  # the newest
    keep_every: int = Field(0, ge=0)  # and those of each so many steps; 0: none of these
    keep_best: bool = False  # and the one with the least held-out loss
    log_every: int = runtime(10, gt=0)
    micro_batch: int = runtime(8, gt=0)
    layout: Layout = runtime(Layout())
    cpus_per_worker: float = runtime(1.0, gt=0)
    threads_per_worker: int = runtime(1, gt=0)
    use_gpu: bool = runtime(False)
    attention: Literal["sdpa", "flash_attn", "flash_attn_4"] = runtime("sdpa")
    zero: Literal[0, 1, 2, 3] = runtime(1)  # what data ranks share: nothing, optimizer, gradients, parameters
    offload: bool = runtime(False)  # the optimizer's state in the node's memory, with zero = 2 or 3
    recompute: Recompute = runtime("none")  # activations that the backward pass makes again, to save memory
    max_failures: int = runtime(2, ge=0)
    hang_seconds: float = runtime(60.0, ge=0)  # a rank that does nothing for so long ends the attempt; 0: never

    @model_validator(mode="after")
    def _engine_parts_go_together(self) -> "LoopConfig":
        if self.zero >= 2 and self.layout.pipeline > 1:
            raise ValueError(f"zero = {self.zero} goes without a pipeline; set layout.pipeline = 1 or zero = 1")
        if self.zero == 0 and self.precision == "bf16":
            raise ValueError("zero = 0 keeps no fp32 masters for bf16; use zero = 1")
        if self.offload and self.zero < 2:
            raise ValueError(f"offload goes with zero = 2 or 3, zero is {self.zero}")
        return self


class PretrainConfig(LoopConfig):
    """A whole training run. The layout and the micro batch do not change its result beyond rounding."""

    model: ShapeConfig = ShapeConfig()
    sequence: int | None = Field(None, gt=1)  # tokens of a sample; None: the model's context
    initial_model: str = ""  # a GPTBigCode folder to start from; or name a model among needs
    steps: int = Field(500, gt=0)
    fim: FimConfig = FimConfig()
    weights: dict[str, float] = {}  # of languages or sources, where the tokens were packed in groups; else 1
    heldout_sequences: int = Field(64, gt=0)
    heldout_groups: bool = False  # also the loss of each language or source that the tokens were packed by

    @model_validator(mode="after")
    def _samples_fit_the_model(self) -> "PretrainConfig":
        self.shape(vocabulary=1)
        if self.length > self.model.context:
            raise ValueError(f"sequence = {self.length} is more than model.context = {self.model.context}")
        return self

    @property
    def length(self) -> int:
        """Tokens that the model sees of a sample."""
        return self.sequence or self.model.context

    def shape(self, vocabulary: int) -> ModelConfig:
        """The full shape of the model."""
        return ModelConfig(vocabulary=vocabulary, **self.model.model_dump())
