"""What a training run is told. Imports neither torch nor Ray, so that validation and plans are instant."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from starloom.config import Config, added, runtime
from starloom.model.config import Activation, ModelConfig
from starloom.tokens.fim import FimConfig
from train_jobs.layout import Layout, Recompute

Target = Literal["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]  # the matrices of a block


class OptimizerConfig(Config):
    """AdamW, or Muon for the blocks' matrices beside it; a linear warm-up, then a decay to `final_rate`."""

    name: Literal["adamw", "muon"] = added("adamw")
    rate: float = Field(3e-4, gt=0)
    final_rate: float = Field(3e-5, ge=0)
    warmup_steps: int = Field(2000, ge=0)
    decay: Literal["cosine", "linear"] = added("cosine")
    decay_from: float = added(0.0, ge=0, lt=1)  # the share of the run after which the rate falls; before, it stays
    matrix_rate: float = added(0.02, gt=0)  # Muon's; it rises and falls as `rate` does
    matrix_weight_decay: float = added(0.0, ge=0)
    momentum: float = added(0.95, ge=0, lt=1)  # Muon's
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


class LengthWarmup(Config):
    """Shorter samples at first, and as many more of them: they teach faster (Li et al. 2022).

    A sample is `pieces` short ones of as many places, half as many after each equal part of `share` of the run, then
    itself.
    """

    pieces: Literal[2, 4, 8, 16, 32] = 4
    share: float = Field(0.5, gt=0, le=1)  # of the run

    def at(self, step: int, steps: int) -> int:
        """Short samples in the place of one in update `step`, counted from 0, of `steps`."""
        rounds = self.pieces.bit_length() - 1
        return max(1, self.pieces >> int(step / (self.share * steps) * rounds))


class LoraConfig(Config):
    """Train a low-rank change of the blocks' matrices, and leave the model as it is (Hu et al. 2021)."""

    rank: int = Field(16, gt=0)
    alpha: float = Field(32.0, gt=0)  # the change counts alpha / rank times
    targets: tuple[Target, ...] = Field(get_args(Target), min_length=1)


class LoopConfig(Config):
    """What every run of the training loop is told, whatever it trains on."""

    global_batch: int = Field(16, gt=0)  # sequences
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig | None = added(None)  # an adapter of the model that training begins from; None: all weights
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
    sequence_parallel: bool = runtime(False)  # between tensor ranks' products, states are cut along the sequence
    compile: bool = runtime(False)  # blocks, by torch's compiler, which needs a C++ compiler; not with tensor ranks
    recompute: Recompute = runtime("none")  # activations that the backward pass makes again, to save memory
    max_failures: int = runtime(2, ge=0)
    min_data: int = runtime(0, ge=0)  # data ranks to go on with when nodes are lost; 0: all are waited for
    hang_seconds: float = runtime(60.0, ge=0)  # a rank that does nothing for so long ends the attempt; 0: never

    @model_validator(mode="after")
    def _engine_parts_go_together(self) -> "LoopConfig":
        if self.zero >= 2 and self.layout.pipeline > 1:
            raise ValueError(f"zero = {self.zero} goes without a pipeline; set layout.pipeline = 1 or zero = 1")
        if self.zero == 0 and self.precision == "bf16":
            raise ValueError("zero = 0 keeps no fp32 masters for bf16; use zero = 1")
        if self.sequence_parallel and self.layout.tensor == 1:
            raise ValueError("sequence_parallel goes with layout.tensor of 2 or more")
        if self.compile and (self.layout.tensor > 1 or self.recompute == "selective"):
            raise ValueError("compile goes with layout.tensor = 1, and with recompute = 'none' or 'block'")
        if self.min_data > self.layout.data:
            raise ValueError(f"min_data = {self.min_data} is more than layout.data = {self.layout.data}")
        if self.lora and (self.layout.pipeline > 1 or self.layout.tensor > 1):
            raise ValueError("lora goes with data ranks alone; set layout.pipeline = layout.tensor = 1, and zero = 3")
        if self.lora and self.optimizer.name != "adamw":
            raise ValueError("lora goes with optimizer.name = 'adamw': its matrices are thin")
        if self.optimizer.name == "muon" and (self.zero == 3 or self.offload):
            raise ValueError(
                "optimizer.name = 'muon' goes with zero = 0, 1 or 2 and without offload: it needs matrices"
            )
        if self.offload and self.zero < 2:
            raise ValueError(f"offload goes with zero = 2 or 3, zero is {self.zero}")
        return self


class PretrainConfig(LoopConfig):
    """A whole training run. The layout and the micro batch do not change its result beyond rounding."""

    model: ShapeConfig = ShapeConfig()  # left out, it is that of the model that training begins from
    sequence: int | None = Field(None, gt=1)  # tokens of a sample; None: the model's context
    initial_model: str = ""  # a GPTBigCode folder or URL (hf://...) to start from; or name a model among needs
    steps: int = Field(500, gt=0)
    length_warmup: LengthWarmup | None = added(None)
    document_masking: bool = added(False)  # nothing attends beyond its own document, and positions begin anew in each
    fim: FimConfig = FimConfig()
    weights: dict[str, float] = {}  # of languages or sources, where the tokens were packed in groups; else 1
    heldout_sequences: int = Field(64, gt=0)
    heldout_groups: bool = False  # also the loss of each language or source that the tokens were packed by

    @model_validator(mode="after")
    def _samples_fit_the_model(self) -> "PretrainConfig":
        self.shape(vocabulary=1)
        if self.shaped and self.length > self.model.context:
            raise ValueError(f"sequence = {self.length} is more than model.context = {self.model.context}")
        if self.length_warmup and self.length % self.length_warmup.pieces:
            raise ValueError(f"length_warmup.pieces = {self.length_warmup.pieces} do not divide {self.length} tokens")
        parts = (self.length_warmup.pieces if self.length_warmup else 1) * self.layout.tensor
        if self.sequence_parallel and self.length % parts:
            raise ValueError(f"sequence_parallel: {self.length} tokens of a sample do not divide into {parts} parts")
        if self.document_masking and self.attention != "sdpa":
            raise ValueError(f"document_masking goes with attention = 'sdpa'; it is {self.attention!r}")
        if self.compile and self.model.dropout:
            raise ValueError(f"compile goes with model.dropout = 0; it is {self.model.dropout}")
        return self

    @property
    def products_share(self) -> float:
        """Of a whole step's products: a frozen model's weights get no gradient, a third of them."""
        return 2 / 3 if self.lora else 1.0

    @property
    def shaped(self) -> bool:
        """Whether a shape is given; where it is the default, that of the initial model takes its place."""
        return self.model != ShapeConfig()

    def pieces(self, step: int) -> int:
        """Short samples in the place of one in update `step`, counted from 0."""
        return self.length_warmup.at(step, self.steps) if self.length_warmup else 1

    @property
    def length(self) -> int:
        """Tokens that the model sees of a sample."""
        return self.sequence or self.model.context

    def shape(self, vocabulary: int) -> ModelConfig:
        """The full shape of the model."""
        return ModelConfig(vocabulary=vocabulary, **self.model.model_dump())
