"""What the ranks of a layout send to each other in a step, over which links, and behind what work it is hidden.

Sums are counted as a ring carries them (Patarasuk and Yuan 2009).
"""

from dataclasses import dataclass

from starloom.model.config import ModelConfig
from train_jobs.config import PretrainConfig
from train_jobs.layout import Layout
from train_jobs.planning.counts import adapter_parameters, element_bytes, embedding_parameters
from train_jobs.planning.hardware import Hardware

LIVE = 1_000_000_000  # and that it keeps gathered for the backward pass


@dataclass(frozen=True)
class Flow:
    """What one processor sends along one axis in one step."""

    sent: int  # bytes
    outside: bool  # whether it leaves the node
    seconds: float
    hidden: float = 0.0  # of these seconds: those in which the processor computes

    @property
    def exposed(self) -> float:
        """Seconds in which the processor waits for it."""
        return self.seconds - self.hidden


@dataclass(frozen=True)
class Traffic:
    """What one processor sends, by axis."""

    tensor: Flow
    pipeline: Flow
    data: Flow

    @property
    def exposed(self) -> float:
        """Seconds of a step that are traffic and nothing else."""
        return self.tensor.exposed + self.pipeline.exposed + self.data.exposed


def tensor_flow(config: PretrainConfig, model: ModelConfig, layout: Layout, hardware: Hardware) -> Flow:
    """Sums over the tensor axis, in each block of each micro batch; products wait for all of them."""
    rows = config.global_batch // layout.data * config.length
    # two sums forward, two backward, and K and V's gradient; a block that is made again wants its first sum again
    states = (5 if config.recompute == "block" else 4) * model.hidden + 2 * model.head_dim
    numbers = model.layers // layout.pipeline * states + model.hidden  # the embedding is summed too
    if layout.pipeline == 1:
        numbers += model.hidden  # the gradient of the output layer's input
    elif not config.sequence_parallel:
        # a rank sends its part of what all hold. Gathering, half of a sum each: what comes in, and of what goes out the
        # states again for the backward pass, and their gradient
        numbers += (3 if layout.pipeline > 2 else 2) * model.hidden // 2
    loss = 3 * 4 * (layout.pipeline == 1)  # a row's maximum, sum and chosen logit, in fp32
    total = rows * (numbers * element_bytes(config) + loss)
    if config.sequence_parallel:  # gradients of what is whole on each rank and used on its part of the sequence
        whole = model.layers // layout.pipeline * (2 * model.head_dim * (model.hidden + 1) + 6 * model.hidden)
        whole += (model.context + 2) * model.hidden
        total += rows // (config.micro_batch * config.length) * whole * element_bytes(config)
    sent = int(2 * (layout.tensor - 1) / layout.tensor * total)
    return Flow(sent, False, sent / (hardware.inside_gb_per_s * 1e9))


def pipeline_flow(config: PretrainConfig, model: ModelConfig, layout: Layout, hardware: Hardware) -> Flow:
    """States forward, their gradients back, and once the tied embedding's, between the first and the last stage."""
    if layout.pipeline == 1:
        return Flow(0, False, 0.0)
    states = config.global_batch // layout.data * config.length * model.hidden * element_bytes(config) // layout.tensor
    tied = embedding_parameters(model, layout.tensor) * element_bytes(config)
    sent = max(min(2, layout.pipeline - 1) * states, states + tied)  # of a stage between; of the first and the last one
    outside = layout.ranks > hardware.node_size
    return Flow(sent, outside, sent / (1e9 * (hardware.outside_gb_per_s if outside else hardware.inside_gb_per_s)))


def data_flow(
    config: PretrainConfig, model: ModelConfig, layout: Layout, hardware: Hardware, held: int, compute: float
) -> Flow:
    """Gradients, and the weights that ZeRO cuts; a ring between nodes uses the links of all its ranks in a node."""
    width, micro_batches = element_bytes(config), config.global_batch // (layout.data * config.micro_batch)
    others = (layout.data - 1) / layout.data * (adapter_parameters(config, model) if config.lora else held)
    if config.zero <= 1:  # gradients are summed in fp32 once, and with ZeRO-1 new weights gathered: all after the work
        sent, overlapping = others * (2 * 4 + (width if config.zero else 0)), 0.0
    elif config.zero == 2:  # each micro batch's gradients are summed, in buckets, while the next ones are made
        sent, overlapping = others * width * (2 * micro_batches + 1), others * 2 * width * micro_batches
    else:  # they go to their owners, and weights are gathered ahead of their use, those that are let go for both passes
        again = 1 - min(held, LIVE) / held
        sent = overlapping = others * (2 + again) * width * micro_batches
        if config.lora:  # the frozen weights are gathered all the same
            sent = overlapping = (layout.data - 1) / layout.data * held * (1 + again) * width * micro_batches
    outside = layout.data * layout.tensor > hardware.node_size
    links = max(1, min(layout.data, hardware.node_size // layout.tensor)) if outside else 1
    rate = 1e9 * (links * hardware.outside_gb_per_s if outside else hardware.inside_gb_per_s)
    # gradients appear in the backward pass, two thirds of the work; weights are wanted in all of it
    room = compute * (2 / 3 if config.zero == 2 else 1)
    hidden = min(overlapping / rate, room) if config.use_gpu else 0.0
    return Flow(int(sent), outside, sent / rate, hidden)
