"""LoRA adapters beside their base, and the order of infilling that a model names."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_apps.deployment import Completions
from serve_apps.hosting import model_folder
from starloom.errors import UserError
from starloom.model.adapter import base_folder, read_adapted
from starloom.model.folder import read_model

RANK, ALPHA = 4, 16


@pytest.fixture
def adapter(tiny_models: tuple[Path, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    generator, state = torch.Generator().manual_seed(3), {}
    for name, weight in read_model(tiny_models[0]).named_parameters():
        if name.endswith(("c_attn.weight", "c_fc.weight")):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            state[f"{stem}.lora_A.weight"] = torch.randn(RANK, weight.shape[1], generator=generator)
            state[f"{stem}.lora_B.weight"] = torch.randn(weight.shape[0], RANK, generator=generator)
    save_file(state, folder / "adapter_model.safetensors")
    _configure(folder, base_model_name_or_path=str(tiny_models[0]))
    return folder


def _configure(folder: Path, **more: object) -> None:
    path = folder / "adapter_config.json"
    before = json.loads(path.read_text()) if path.is_file() else {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
    path.write_text(json.dumps({**before, **more}))


@pytest.mark.parametrize(("rslora", "scale"), [(False, ALPHA / RANK), (True, ALPHA / RANK**0.5)])
def test_adapted_layer_gives_base_plus_the_scaled_low_rank_path(adapter: Path, rslora: bool, scale: float) -> None:
    _configure(adapter, use_rslora=rslora)
    base, made = read_model(base_folder(adapter)), read_adapted(adapter)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    factors = load_file(adapter / "adapter_model.safetensors")
    stem = "base_model.model.transformer.h.1.attn.c_attn"
    low = x @ factors[f"{stem}.lora_A.weight"].T @ factors[f"{stem}.lora_B.weight"].T
    before, after = (model.transformer.h[1].attn.c_attn for model in (base, made))
    assert torch.allclose(after(x), before(x) + scale * low, atol=1e-3)
    assert torch.equal(base.transformer.h[1].attn.c_proj.weight, made.transformer.h[1].attn.c_proj.weight)


def test_adapter_is_served_by_name_beside_its_base(adapter: Path, tiny_models: tuple[Path, Path]) -> None:
    assert model_folder(str(adapter)) == str(adapter)
    models = [{"name": "base", "folder": str(tiny_models[0])}, {"name": "mine", "folder": str(adapter)}]
    served = Completions({"models": models})._service.models
    assert list(served) == ["base", "mine"]
    assert served["mine"].tokenizer.json_text == served["base"].tokenizer.json_text
    for one in served.values():
        one.engine.close()


def test_adapters_that_cannot_be_added_are_told(adapter: Path, tiny_models: tuple[Path, Path]) -> None:
    for change, told in [({"use_dora": True}, "use_dora"), ({"peft_type": "IA3"}, "IA3")]:
        _configure(adapter, **change)
        with pytest.raises(UserError, match=told):
            read_adapted(adapter)
        _configure(adapter, use_dora=False, peft_type="LORA")
    _configure(adapter, base_model_name_or_path="nowhere")
    with pytest.raises(UserError, match="is no model folder"):
        read_adapted(adapter)
    _configure(adapter, base_model_name_or_path=str(tiny_models[0]))
    shutil.copy(tiny_models[0] / "model.safetensors", adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="no LoRA adapter"):
        read_adapted(adapter)


@pytest.mark.parametrize(
    ("named", "asked", "order"), [(None, None, "psm"), ("spm", None, "spm"), ("spm", "psm", "psm")]
)
def test_order_of_infilling_is_the_models_unless_the_config_says(
    tiny_models: tuple[Path, Path], tmp_path: Path, named: str | None, asked: str | None, order: str
) -> None:
    folder = Path(shutil.copytree(tiny_models[0], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | ({"fim_order": named} if named else {})))
    served = Completions({"models": [{"folder": str(folder), "fim_order": asked}]})._service.models["model"]
    assert served.fim_order == order
    served.engine.close()


def test_weights_that_are_not_finite_are_told_before_anything_is_served(
    tiny_models: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_models[0], tmp_path / "model"))
    state = load_file(folder / "model.safetensors")
    state["transformer.ln_f.weight"][3] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"ln_f\.weight holds values that are not finite"):
        Completions({"models": [{"folder": str(folder)}]})
