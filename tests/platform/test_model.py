"""Our model against transformers' GPTBigCodeForCausalLM on the same weights, both directions; broken folders."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPTBigCodeConfig, GPTBigCodeForCausalLM

from starloom.errors import UserError
from starloom.model.attention import check_backend
from starloom.model.config import ModelConfig
from starloom.model.folder import read_model, write_model
from starloom.model.model import CodeModel, initial_state

SHAPE = ModelConfig(layers=3, hidden=48, heads=4, vocabulary=300, context=64)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from data_jobs.train_tokenizer import train_bpe

    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(train_bpe(iter(["def f(x):\n    return x + 1\n"] * 50), 290).json_text)
    return folder / "tokenizer.json"


def _logits_of_transformers(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    theirs = GPTBigCodeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return theirs(ids).logits


@pytest.mark.parametrize("shard_bytes", [1 << 30, 50_000])
def test_our_weights_give_the_same_logits_in_transformers(tmp_path, tokenizer_file, shard_bytes: int) -> None:
    state = initial_state(SHAPE, seed=3)
    write_model(tmp_path, SHAPE, state, tokenizer=tokenizer_file, card="# card\n", shard_bytes=shard_bytes)
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = read_model(tmp_path)(ids)
    assert (ours - _logits_of_transformers(tmp_path, ids)).abs().max() < TOLERANCE
    assert ours.std() > 0.01
    assert len(AutoTokenizer.from_pretrained(tmp_path)("x = 1").input_ids) > 0


@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "gelu"])
def test_their_weights_give_the_same_logits_in_ours(tmp_path, activation: str) -> None:
    torch.manual_seed(1)
    shape = {"vocab_size": 300, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_inner": 192}
    theirs = GPTBigCodeForCausalLM(GPTBigCodeConfig(**shape, activation_function=activation))
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(0, 300, (2, 64))
    with torch.no_grad():
        difference = (read_model(tmp_path)(ids) - theirs.eval()(ids).logits).abs().max()
    assert difference < TOLERANCE


def test_parameter_count_is_that_of_the_model() -> None:
    assert sum(parameter.numel() for parameter in CodeModel(SHAPE).parameters()) == SHAPE.parameters


def test_starcoder_has_its_15_5_billion_parameters() -> None:
    shape = ModelConfig(layers=40, hidden=6144, heads=48, vocabulary=49152, context=8192)
    assert shape.parameters == pytest.approx(15.5e9, rel=0.01)


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    first, again, other = initial_state(SHAPE, 1), initial_state(SHAPE, 1), initial_state(SHAPE, 2)
    name = "transformer.h.1.attn.c_attn.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first["transformer.h.2.attn.c_attn.weight"])


def test_broken_folders_are_told_in_one_line(tmp_path, tokenizer_file) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_model(tmp_path)
    write_model(tmp_path, SHAPE, initial_state(SHAPE, 0), tokenizer=tokenizer_file, card="")
    state = initial_state(SHAPE, 0)
    state["transformer.ln_f.weight"][3] = float("nan")
    write_model(tmp_path / "nan", SHAPE, state, tokenizer=tokenizer_file, card="")
    with pytest.raises(UserError, match=r"transformer\.ln_f\.weight holds values that are not finite"):
        read_model(tmp_path / "nan")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        read_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(UserError, match="'llama' is not gpt_bigcode"):
        read_model(tmp_path)


# what config.json of bigcode/starcoder says beside the shape
STARCODER_CONFIG = {
    "_name_or_path": "",
    "activation_function": "gelu",
    "architectures": ["GPTBigCodeForCausalLM"],
    "attention_softmax_in_fp32": True,
    "inference_runner": 0,
    "max_batch_size": None,
    "max_sequence_length": None,
    "pad_key_length": True,
    "pre_allocate_kv_cache": False,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "validate_runner_input": True,
    "multi_query": True,
    "model_type": "gpt_bigcode",
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 4,
    "n_positions": 32,
    "vocab_size": 64,
    "n_inner": 128,
}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False is not supported; only True is"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False is not supported"),
        ({"multi_query": False}, "multi_query = False is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention = True is not supported"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config = .* is not supported"),
        ({"activation_function": "relu"}, "activation_function = 'relu' is not supported"),
        ({"rope_theta": 1e4}, r"rope_theta = 10000\.0 is not understood"),
    ],
)
def test_setting_that_changes_the_numbers_is_refused(changes: dict[str, object], complaint: str) -> None:
    assert ModelConfig.from_transformers(STARCODER_CONFIG).activation == "gelu"
    with pytest.raises(ValueError, match=complaint):
        ModelConfig.from_transformers({**STARCODER_CONFIG, **changes})


def test_output_layer_of_its_own_and_unknown_weights_are_refused(tmp_path: Path) -> None:
    theirs = GPTBigCodeForCausalLM(
        GPTBigCodeConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, n_inner=128)
    )
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    embedding = state["transformer.wte.weight"]
    save_file({**state, "lm_head.weight": embedding.clone()}, tmp_path / "model.safetensors")
    assert read_model(tmp_path).config.layers == 2
    save_file({**state, "lm_head.weight": embedding + 1}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="has an output layer of its own"):
        read_model(tmp_path)
    save_file({**state, "transformer.h.0.adapter": embedding.clone()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"transformer\.h\.0\.adapter, which a GPTBigCode model does not have"):
        read_model(tmp_path)


def test_backend_whose_package_lacks_the_function_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)  # all that the wheel of flash-attn-4 brings
    (tmp_path / "flash_attn" / "cute" / "__init__.py").write_text("def flash_attn_func(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="flash_attn needs the package flash-attn, which is not installed"):
        check_backend("flash_attn", dropout=0.0, gpu=True)
    check_backend("flash_attn_4", dropout=0.0, gpu=True)
