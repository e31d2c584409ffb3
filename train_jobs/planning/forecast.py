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
from train_jobs.planning.counts import (
    adapter_parameters,
    block_parameters,
    element_bytes,
    embedding_parameters,
    stage_parameters,
)
from train_jobs.planning.hardware import Hardware
from train_jobs.planning.traffic import LIVE, Traffic, data_flow, pipeline_flow, tensor_flow

STATE_BYTES = 12  # of a parameter in checkpoints: fp32 master and two moments
# logits of some rows in fp32, which become their gradient; on a GPU both in bf16 too, on a CPU a row-wise term or two
LOSS_BYTES = {2: 2 * (256 << 20), 4: 2 * (16 << 20)}
BUCKET = 50_000_000  # gradients that ZeRO sums at a time: the settings of DeepSpeed take it from here
PREFETCH = 50_000_000  # parameters that ZeRO-3 gathers ahead, DeepSpeed's own default
# share of the peak that products reach while they are made: StarCoder's 24 days, less the idle share and the traffic
EFFICIENCY = 0.48
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
class Forecast:
    """One layout's needs. Memory is that of the stage that needs most."""

    layout: Layout
    micro_batch: int
    stage_parameters: tuple[int, ...]  # of one rank of each stage
    memory: Memory
    fullest_stage: int
    bubble: float  # share of a step in which a stage waits
    traffic: Traffic
    seconds: float  # a step: products, the pipeline's idle share, and what traffic nothing hides
    fits: bool


def activation_bytes_per_token(
    model: ModelConfig, tensor: int, width: int, recompute: Recompute = "none", *, sequence: bool = False
) -> int:
    """What one block keeps for its backward pass, for one token; `width` is the bytes of an element.

    With `sequence`, what is between the products of tensor ranks is cut along the sequence.
    """
    h, d = model.hidden, model.head_dim
    parts = tensor if sequence else 1
    if recompute == "block":
        return h * width // parts
    whole = 4 * h * width + 2 * d * width  # both norms' inputs and outputs, K and V
    cut = 2 * h * width + 4 * h * width + 4 * model.heads  # queries and what attention mixes; before GELU; log sums
    if recompute == "none":
        cut += 4 * h * width  # after GELU
    masks = 2 * h if model.dropout else 0
    statistics = 2 * 2 * 4  # mean and deviation of both norms
    # both norms' outputs are whole again where products take them in
    gathered = 2 * h * width if sequence else 0
    return gathered + (whole + masks + statistics) // parts + cut // tensor


def forecast(
    config: PretrainConfig, model: ModelConfig, hardware: Hardware, layout: Layout, efficiency: float = EFFICIENCY
) -> Forecast:
    """The needs of one layout that divides the model and the batch; products run at that share of the peak."""
    width = element_bytes(config)
    micro_batches = config.global_batch // (layout.data * config.micro_batch)
    held = stage_parameters(model, layout)
    memories = [
        _memory(config, model, layout, stage, parameters, width, min(micro_batches, layout.pipeline - stage))
        for stage, parameters in enumerate(held)
    ]
    fullest = max(range(layout.pipeline), key=lambda stage: memories[stage].total)
    bubble = (layout.pipeline - 1) / (micro_batches + layout.pipeline - 1)
    products = config.products_share * model.flops_per_token(config.length) * config.global_batch * config.length
    compute = products / (layout.ranks * hardware.peak_tflops * 1e12 * efficiency)
    traffic = Traffic(
        tensor=tensor_flow(config, model, layout, hardware),
        pipeline=pipeline_flow(config, model, layout, hardware),
        data=data_flow(config, model, layout, hardware, max(held), compute),
    )
    seconds = compute / (1 - bubble) + traffic.exposed
    fits = memories[fullest].total <= USABLE * hardware.memory_gb * 1e9
    return Forecast(layout, config.micro_batch, held, memories[fullest], fullest, bubble, traffic, seconds, fits)


def _memory(
    config: PretrainConfig, model: ModelConfig, layout: Layout, stage: int, parameters: int, width: int, in_flight: int
) -> Memory:
    tokens = config.micro_batch * config.length
    blocks = model.layers // layout.pipeline
    kept = (
        blocks
        * activation_bytes_per_token(model, layout.tensor, width, config.recompute, sequence=config.sequence_parallel)
        + model.hidden * width
    )
    widest = 3 * 4 * model.hidden // layout.tensor * width  # the feed-forward while its gradient is made
    if config.recompute == "block":
        widest += activation_bytes_per_token(
            model, layout.tensor, width, sequence=config.sequence_parallel
        )  # of the block that is made again
    last = stage == layout.pipeline - 1
    logits = padded_vocabulary(model.vocabulary, layout.tensor) // layout.tensor
    output = min(LOSS_BYTES[width], 2 * 4 * tokens * logits) + 4 * logits * model.hidden  # and its weight's gradient
    activations = in_flight * tokens * kept
    buffers = tokens * widest + (output if last else 0)
    state = _state(config, model, layout, parameters, width)
    # ZeRO-2's bucket fills while activations go; ZeRO-3 holds gathered weights from the first product on
    gathered = state.gathered if config.zero == 3 else max(0, state.gathered - activations)
    return Memory(
        weights=state.weights,
        gradients=state.gradients,
        optimizer=state.optimizer,
        activations=activations,
        # when the optimizer works activations are gone
        buffers=max(buffers + gathered, state.update - activations),
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
    fused = config.optimizer.name == "adamw" and width == 4
    if config.lora:
        return _adapter_state(config, model, layout, parameters, width)
    if config.zero == 0:
        # masters are the parameters themselves
        moments = 8 * parameters - layout.data * _saved_by_muon(config, model, layout)
        return _State(4 * parameters, 4 * parameters, moments, 0, 0 if fused else 2 * 4 * parameters)
    optimizer = STATE_BYTES * share - _saved_by_muon(config, model, layout)
    terms = 0 if fused else 2 * 4 * share  # that Adam writes down while it works; in bf16 DeepSpeed's own copies
    if config.zero == 1:
        # bf16 gradients of a micro batch are added to fp32 ones, whose share is used as it is; in fp32 it is copied
        gradients = (width + 4) * parameters if width == 2 else 4 * parameters
        return _State(width * parameters, gradients, optimizer, 0, terms + (0 if width == 2 else 4 * share))
    bucket = width * min(parameters, 2 * BUCKET)  # one that is filled while another is summed
    weights, gathered = width * parameters, bucket
    if config.zero == 3:
        largest = max(block_parameters(model, layout.tensor), embedding_parameters(model, layout.tensor))
        weights, gathered = width * share, bucket + width * min(parameters, LIVE + largest + PREFETCH)
    if config.offload:
        return _State(weights, 0, 0, gathered, bucket, host=optimizer + 4 * share)
    return _State(weights, 4 * share, optimizer, gathered, terms + 4 * share)


def _adapter_state(config: PretrainConfig, model: ModelConfig, layout: Layout, parameters: int, width: int) -> _State:
    """A frozen model, whole or cut by ZeRO-3, and all that training needs of a change of low rank."""
    trained = adapter_parameters(config, model)
    weights, gathered = width * (parameters + trained), 0
    if config.zero == 3:
        weights, gathered = weights // layout.data, min(weights, width * (LIVE + PREFETCH))
    share = trained // layout.data if config.zero else trained
    return _State(weights, (width + 4) * trained, STATE_BYTES * share, gathered, 2 * 4 * share)


def _saved_by_muon(config: PretrainConfig, model: ModelConfig, layout: Layout) -> int:
    """Second moments that Muon does not keep, bytes of a data rank's share."""
    if config.optimizer.name == "adamw":
        return 0
    return 4 * model.layers // layout.pipeline * block_parameters(model, layout.tensor) // layout.data


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


def ranked(
    config: PretrainConfig, model: ModelConfig, hardware: Hardware, ranks: int, efficiency: float = EFFICIENCY
) -> list[Forecast]:
    """Forecasts of all layouts of that many ranks that fit, the fastest first."""
    found = [
        forecast(config, model, hardware, layout, efficiency) for layout in layouts(config, model, hardware, ranks)
    ]
    return sorted((one for one in found if one.fits), key=lambda one: one.seconds)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
