"""What one rank holds of a model, counted. Imports no torch."""

from starloom.model.config import ModelConfig
from train_jobs.config import PretrainConfig
from train_jobs.layout import Layout, padded_vocabulary


def element_bytes(config: PretrainConfig) -> int:
    """Bytes of a weight, an activation, a gradient."""
    return 2 if config.precision == "bf16" else 4


def stage_parameters(model: ModelConfig, layout: Layout) -> tuple[int, ...]:
    """Parameters that one rank of each stage holds; the tied embedding is on the first and on the last."""
    blocks = model.layers // layout.pipeline * block_parameters(model, layout.tensor)
    token_rows = padded_vocabulary(model.vocabulary, layout.tensor) // layout.tensor * model.hidden
    positions, last_norm = model.context * model.hidden, 2 * model.hidden
    if layout.pipeline == 1:
        return (blocks + token_rows + positions + last_norm,)
    between = (blocks,) * (layout.pipeline - 2)
    return (blocks + token_rows + positions, *between, blocks + last_norm + token_rows)


def block_parameters(model: ModelConfig, tensor: int) -> int:
    """Those of one block that one tensor rank holds."""
    h, d = model.hidden, model.head_dim
    cut = h * h + h + h * h + 2 * h * model.inner + model.inner  # queries, projection, feed-forward
    whole = 2 * d * (h + 1) + h + h + 4 * h  # K and V, the biases after the sums, two norms
    return cut // tensor + whole


def embedding_parameters(model: ModelConfig, tensor: int) -> int:
    """Those of the token embedding that one tensor rank holds."""
    return padded_vocabulary(model.vocabulary, tensor) // tensor * model.hidden


def adapter_parameters(config: PretrainConfig, model: ModelConfig) -> int:
    """Those of the low-rank changes of all blocks; 0 without."""
    if config.lora is None:
        return 0
    h = model.hidden
    widths = {
        "attn.c_attn": h + 2 * model.head_dim + h,
        "attn.c_proj": h + h,
        "mlp.c_fc": model.inner + h,
        "mlp.c_proj": h + model.inner,
    }
    return model.layers * config.lora.rank * sum(widths[target] for target in config.lora.targets)
