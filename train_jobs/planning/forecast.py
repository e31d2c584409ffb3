"""What a training run needs, by arithmetic alone: parameters, memory, traffic and time of every layout.

Activations are counted as our own layers keep them for the backward pass (Korthikanti et al. 2022 count Megatron's);
the pipeline's idle share is that of the 1F1B schedule (Narayanan et al. 2021).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from starloom.errors import UserError
from starloom.model.config import ModelConfig
from train_jobs.config import PretrainConfig
from train_jobs.layout import Layout, Recompute, padded_vocabulary
from train_jobs.planning.hardware import Hardware

STATE_BYTES = 12  # of a parameter in checkpoints: fp32 master and two moments
# logits of some rows in fp32, which become their gradient; on a GPU both in bf16 too, on a CPU a row-wise term or two
LOSS_BYTES = {2: 2 * (256 << 20), 4: 2 * (16 << 20)}
BUCKET = 50_000_000  # gradients that ZeRO sums at a time: the settings of DeepSpeed take it from here
PREFETCH = 50_000_000  # parameters that ZeRO-3 gathers ahead, DeepSpeed's own default
USABLE = 0.92  # of a processor's memory: the rest is the driver's, the libraries' and fragments


@dataclass(frozen=True)
class Memory:
    """Bytes on one processor, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    host: int = 0  # in the node's memory, where the optimizer's state is kept there

    @property
    def total(self) -> int:
        """All parts on the processor."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


@dataclass(frozen=True)
class Traffic:
    """Bytes that one processor sends in one step."""

    tensor: int
    pipeline: int
    data: int


@dataclass(frozen=True)
class Forecast:
    """One layout's needs. Memory is that of the stage that needs most."""

    layout: Layout
    micro_batch: int
    stage_parameters: tuple[int, ...]  # of one rank of each stage
    memory: Memory
    fullest_stage: int
    bubble: float  # share of a step in which a stage waits
    traffic: Traffic
    relative_seconds: float  # a step, if products ran at the peak; only ratios between layouts mean anything
    fits: bool


def stage_parameters(model: ModelConfig, layout: Layout) -> tuple[int, ...]:
    """Parameters that one rank of each stage holds; the tied embedding is on the first and on the last."""
    blocks = model.layers // layout.pipeline * _rank_block_parameters(model, layout.tensor)
    token_rows = padded_vocabulary(model.vocabulary, layout.tensor) // layout.tensor * model.hidden
    positions, last_norm = model.context * model.hidden, 2 * model.hidden
    if layout.pipeline == 1:
        return (blocks + token_rows + positions + last_norm,)
    between = (blocks,) * (layout.pipeline - 2)
    return (blocks + token_rows + positions, *between, blocks + last_norm + token_rows)


def _rank_block_parameters(model: ModelConfig, tensor: int) -> int:
    h, d = model.hidden, model.head_dim
    cut = h * h + h + h * h + 2 * h * model.inner + model.inner  # queries, projection, feed-forward
    whole = 2 * d * (h + 1) + h + h + 4 * h  # K and V, the biases after the sums, two norms
    return cut // tensor + whole


def activation_bytes_per_token(model: ModelConfig, tensor: int, width: int, recompute: Recompute = "none") -> int:
    """What one block keeps for its backward pass, for one token; `width` is the bytes of an element."""
    h, d = model.hidden, model.head_dim
    if recompute == "block":
        return h * width
    whole = 4 * h * width + 2 * d * width  # both norms' inputs and outputs, K and V
    cut = 2 * h * width + 4 * h * width + 4 * model.heads  # queries and what attention mixes; before GELU; log sums
    if recompute == "none":
        cut += 4 * h * width  # after GELU
    masks = 2 * h if model.dropout else 0
    statistics = 2 * 2 * 4  # mean and deviation of both norms
    return whole + cut // tensor + masks + statistics


def forecast(config: PretrainConfig, model: ModelConfig, hardware: Hardware, layout: Layout) -> Forecast:
    """The needs of one layout that divides the model and the batch."""
    width = 2 if config.precision == "bf16" else 4
    tokens = config.micro_batch * config.length
    micro_batches = config.global_batch // (layout.data * config.micro_batch)
    held = stage_parameters(model, layout)
    memories = [
        _memory(config, model, layout, stage, parameters, width, min(micro_batches, layout.pipeline - stage))
        for stage, parameters in enumerate(held)
    ]
    fullest = max(range(layout.pipeline), key=lambda stage: memories[stage].total)
    bubble = (layout.pipeline - 1) / (micro_batches + layout.pipeline - 1)
    state = model.hidden * width * tokens  # one micro batch between two blocks
    ring = 2 * (layout.tensor - 1) / layout.tensor
    blocks = model.layers // layout.pipeline
    traffic = Traffic(
        # two sums forward, two backward, and K and V's gradient
        tensor=int(ring * micro_batches * blocks * (4 * state + 2 * model.head_dim * width * tokens)),
        pipeline=state * micro_batches if layout.pipeline > 1 else 0,
        data=int((layout.data - 1) / layout.data * max(held) * _data_bytes(config, width, micro_batches)),
    )
    products = model.flops_per_token(config.length) * config.global_batch * config.length
    compute = products / (layout.ranks * hardware.peak_tflops * 1e12)
    across = hardware.outside_gb_per_s if layout.ranks > hardware.node_size else hardware.inside_gb_per_s
    seconds = compute / (1 - bubble) + traffic.tensor / (hardware.inside_gb_per_s * 1e9)
    seconds += (traffic.data + traffic.pipeline) / (across * 1e9)
    fits = memories[fullest].total <= USABLE * hardware.memory_gb * 1e9
    return Forecast(layout, config.micro_batch, held, memories[fullest], fullest, bubble, traffic, seconds, fits)


def _data_bytes(config: PretrainConfig, width: int, micro_batches: int) -> int:
    """What the data axis costs for each parameter in a step, but for a rank's own share."""
    if config.zero <= 1:  # gradients are summed in fp32 once, and with ZeRO-1 new weights gathered
        return 2 * 4 + (width if config.zero else 0)
    if config.zero == 2:  # each micro batch's gradients go to their owners
        return width * micro_batches + width
    return 3 * width * micro_batches  # and weights are gathered for both passes of each


def _memory(
    config: PretrainConfig, model: ModelConfig, layout: Layout, stage: int, parameters: int, width: int, in_flight: int
) -> Memory:
    tokens = config.micro_batch * config.length
    blocks = model.layers // layout.pipeline
    kept = blocks * activation_bytes_per_token(model, layout.tensor, width, config.recompute) + model.hidden * width
    widest = 3 * 4 * model.hidden // layout.tensor * width  # the feed-forward while its gradient is made
    if config.recompute == "block":
        widest += activation_bytes_per_token(model, layout.tensor, width)  # of the block that is made again
    last = stage == layout.pipeline - 1
    output_gradient = 4 * padded_vocabulary(model.vocabulary, layout.tensor) // layout.tensor * model.hidden
    activations = in_flight * tokens * kept
    buffers = tokens * widest + (LOSS_BYTES[width] + output_gradient if last else 0)
    state = _state(config, model, layout, parameters, width)
    return Memory(
        weights=state.weights,
        gradients=state.gradients,
        optimizer=state.optimizer,
        activations=activations,
        # when the optimizer works activations are gone
        buffers=max(buffers + state.gathered, state.update - activations),
        host=state.host,
    )


@dataclass(frozen=True)
class _State:
    """Bytes of weights and what goes with them on one processor, and `host` in the node's memory."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int  # while products are made
    update: int  # while the optimizer works
    host: int = 0


def _state(config: PretrainConfig, model: ModelConfig, layout: Layout, parameters: int, width: int) -> _State:
    """What ZeRO cuts along the data axis (Rajbhandari et al. 2020): nothing, the optimizer, gradients, weights."""
    share = -(-parameters // layout.data)
    if config.zero == 0:
        # masters are the parameters themselves; Adam's two terms while it works
        return _State(4 * parameters, 4 * parameters, 8 * parameters, 0, 2 * 4 * parameters)
    optimizer, terms = STATE_BYTES * share, 2 * 4 * share
    if config.zero == 1:
        # bf16 gradients of a micro batch are added to fp32 ones, whose share is used as it is; in fp32 it is copied
        gradients = (width + 4) * parameters if width == 2 else 4 * parameters
        return _State(width * parameters, gradients, optimizer, 0, terms + (0 if width == 2 else 4 * share))
    bucket = width * min(parameters, 2 * BUCKET)  # one that is filled while another is summed
    weights, gathered = width * parameters, bucket
    if config.zero == 3:
        largest = max(_rank_block_parameters(model, layout.tensor), _embedding(model, layout.tensor))
        weights, gathered = width * share, bucket + width * min(parameters, largest + PREFETCH)
    if config.offload:
        return _State(weights, 0, 0, gathered, bucket, host=optimizer + 4 * share)
    return _State(weights, 4 * share, optimizer, gathered, terms + 4 * share)


def _embedding(model: ModelConfig, tensor: int) -> int:
    return padded_vocabulary(model.vocabulary, tensor) // tensor * model.hidden


def check_node(layout: Layout, hardware: Hardware) -> None:
    """`UserError` in one line when tensor ranks would not be neighbours inside a node."""
    if hardware.node_size % layout.tensor:
        raise UserError(
            f"layout.tensor = {layout.tensor} does not fit into nodes of {hardware.node_size}; "
            f"use a divisor of {hardware.node_size}"
        )
    if layout.ranks > hardware.node_size and layout.ranks % hardware.node_size:
        raise UserError(
            f"{layout.ranks} ranks fill no whole number of nodes of {hardware.node_size}; "
            f"change layout.data or --node-size"
        )


def layouts(config: PretrainConfig, model: ModelConfig, hardware: Hardware, ranks: int) -> Iterator[Layout]:
    """Every layout of that many ranks that divides the model, the batch and the nodes."""
    for tensor in _divisors(hardware.node_size):
        for pipeline in _divisors(model.layers):
            if ranks % (tensor * pipeline):
                continue
            layout = Layout(pipeline=pipeline, tensor=tensor, data=ranks // (tensor * pipeline))
            try:
                layout.check(model, config.global_batch, config.micro_batch)
                check_node(layout, hardware)
            except UserError:
                continue  # the question is which layouts there are, not what is wrong with the others
            yield layout


def ranked(config: PretrainConfig, model: ModelConfig, hardware: Hardware, ranks: int) -> list[Forecast]:
    """Forecasts of all layouts of that many ranks that fit, the fastest first."""
    found = [forecast(config, model, hardware, layout) for layout in layouts(config, model, hardware, ranks)]
    return sorted((one for one in found if one.fits), key=lambda one: one.relative_seconds)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
