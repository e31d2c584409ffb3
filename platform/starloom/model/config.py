"""The shape of a GPTBigCode model. Imports neither torch nor transformers."""

from typing import Any, Literal

from pydantic import Field, model_validator

from starloom.config import Config

Activation = Literal["gelu_pytorch_tanh", "gelu"]
_READ = frozenset(
    [
        *("n_layer", "n_embd", "n_head", "n_inner", "vocab_size", "n_positions", "initializer_range"),
        *("layer_norm_epsilon", "resid_pdrop", "attn_pdrop", "embd_pdrop"),
    ]
)
_TANH_FORMS = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
# what changes the numbers, and the values that ours computes
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt_bigcode",),
    "multi_query": (True,),
    "num_key_value_heads": (1,),
    "activation_function": (*_TANH_FORMS, "gelu"),
    "scale_attn_weights": (True,),
    "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "chunk_size_feed_forward": (0,),
    "attention_softmax_in_fp32": (True, False),  # ours is in fp32 where it matters: on the CPU, and within kernels
    "scale_attention_softmax_in_fp32": (True, False),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),
}
# what says how the model was stored, is served by others, or is asked to print
_INERT = frozenset(
    [
        *("architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "use_cache", "return_dict"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "output_attentions", "problem_type"),
        *("output_hidden_states", "use_return_dict", "return_dict_in_generate", "torchscript", "finetuning_task"),
        *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
        *("inference_runner", "max_batch_size", "max_sequence_length", "runner_max_sequence_length", "pad_key_length"),
        *("pre_allocate_kv_cache", "validate_runner_input", "gradient_checkpointing", "task_specific_params", "prefix"),
        *("max_length", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "tokenizer_class"),
        "fim_order",  # our server's
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "attention_dropout"),
    ]
)


class ModelConfig(Config):
    """StarCoder's architecture: multi-query attention, learned positions, tied embeddings, GELU.

    BigCode's Megatron-LM trained with GELU's tanh form, and the ``config.json`` of the StarCoder models says ``gelu``,
    the exact form: a folder is computed as it says.
    """

    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    context: int = Field(8192, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    init_std: float = Field(0.02, gt=0)
    norm_epsilon: float = Field(1e-5, gt=0)
    activation: Activation = "gelu_pytorch_tanh"

    @property
    def gelu_form(self) -> Literal["tanh", "none"]:
        """What `torch.nn.functional.gelu` calls `approximate`."""
        return "none" if self.activation == "gelu" else "tanh"

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> "ModelConfig":
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads; use a multiple of it")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return 4 * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Parameters of one block: two norms, fused Q and one K and V head, projection, feed-forward."""
        h, d = self.hidden, self.head_dim
        attention = h * (h + 2 * d) + (h + 2 * d) + h * h + h
        return attention + 2 * h * self.inner + self.inner + h + 4 * h

    @property
    def parameters(self) -> int:
        """All parameters; the tied embedding counts once."""
        return self.layers * self.layer_parameters + (self.vocabulary + self.context) * self.hidden + 2 * self.hidden

    def flops_per_token(self, sequence: int) -> float:
        """Training operations per token, forward and backward: 6·N + 12·layers·hidden·sequence (full attention)."""
        return 6.0 * self.parameters + 12.0 * self.layers * self.hidden * sequence

    def to_transformers(self, *, end_of_text: int) -> dict[str, Any]:
        """The ``config.json`` of a `GPTBigCodeForCausalLM`."""
        return {
            "architectures": ["GPTBigCodeForCausalLM"],
            "model_type": "gpt_bigcode",
            "activation_function": self.activation,
            "attention_softmax_in_fp32": True,
            "scale_attention_softmax_in_fp32": True,
            "scale_attn_weights": True,
            "multi_query": True,
            "attn_pdrop": self.dropout,
            "embd_pdrop": self.dropout,
            "resid_pdrop": self.dropout,
            "n_layer": self.layers,
            "n_embd": self.hidden,
            "n_head": self.heads,
            "n_inner": self.inner,
            "n_positions": self.context,
            "vocab_size": self.vocabulary,
            "initializer_range": self.init_std,
            "layer_norm_epsilon": self.norm_epsilon,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "tie_word_embeddings": True,
            "use_cache": True,
        }

    @classmethod
    def from_transformers(cls, values: dict[str, Any]) -> "ModelConfig":
        """Read a ``config.json``.

        Raises:
            ValueError: it is of another architecture, or uses an option that ours does not have.
        """
        if values.get("model_type") != "gpt_bigcode":
            raise ValueError(f"model_type = {values.get('model_type')!r} is not gpt_bigcode")
        for name, value in values.items():
            if name in _SUPPORTED and value not in _SUPPORTED[name]:
                wanted = " or ".join(map(repr, _SUPPORTED[name]))
                raise ValueError(f"{name} = {value!r} is not supported; only {wanted} is")
            if name not in _SUPPORTED and name not in _READ and name not in _INERT:
                raise ValueError(f"{name} = {value!r} is not understood; remove it if the model needs none")
        inner = values.get("n_inner")
        if inner is not None and inner != 4 * values["n_embd"]:
            raise ValueError(f"n_inner = {inner} is not 4 × n_embd")
        return cls(
            layers=values["n_layer"],
            hidden=values["n_embd"],
            heads=values["n_head"],
            vocabulary=values["vocab_size"],
            context=values["n_positions"],
            dropout=values.get("resid_pdrop", 0.0),
            init_std=values.get("initializer_range", 0.02),
            norm_epsilon=values.get("layer_norm_epsilon", 1e-5),
            activation="gelu" if values.get("activation_function") == "gelu" else "gelu_pytorch_tanh",
        )
