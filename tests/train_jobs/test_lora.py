"""Adapters train alike in every layout that they are allowed with, and peft loads what we write."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_jobs.train_tokenizer import train_bpe
from starloom.artifact import ArtifactWriter
from starloom.config import validate
from starloom.errors import UserError
from starloom.model.config import ModelConfig
from starloom.tokens import TokenShardWriter
from tests.train_jobs import gloo
from train_jobs.config import LoraConfig, OptimizerConfig, PretrainConfig, ShapeConfig
from train_jobs.layout import Layout

VOCABULARY, STEPS = 300, 6
SHAPE = ShapeConfig(layers=2, hidden=32, heads=4, context=32)
LORA = LoraConfig(rank=4, alpha=8)
# data ranks, ZeRO stage, precision
CASES = [
    *((1, 0, "fp32"), (1, 1, "bf16"), (2, 1, "fp32"), (2, 2, "fp32"), (2, 3, "fp32"), (2, 3, "bf16")),
]


def config_of(data: int, zero: int, precision: str) -> PretrainConfig:
    return PretrainConfig(
        model=SHAPE,
        lora=LORA,
        steps=STEPS,
        global_batch=4,
        micro_batch=2,
        checkpoint_every=3,
        optimizer=OptimizerConfig(rate=1e-2, final_rate=1e-3, warmup_steps=1, weight_decay=0.0),
        layout=Layout(data=data),
        zero=zero,
        precision=precision,
    )


def _work(rank: int, ranks: int, folder: str) -> None:
    from train_jobs.job import Job
    from train_jobs.loop.worker import work

    for case in CASES:
        if case[0] != ranks:
            continue
        output = f"{folder}/{'-'.join(map(str, case))}"
        tokenizer, base = f"{folder}/base/tokenizer.json", f"{folder}/base"
        job = Job(config_of(*case), (f"{folder}/train",), (), "uint16", VOCABULARY, tokenizer, output, base)
        work(job)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from starloom.model.folder import write_model
    from starloom.model.model import initial_state

    folder = tmp_path_factory.mktemp("lora")
    model = ModelConfig(vocabulary=VOCABULARY, **SHAPE.model_dump())
    (folder / "tokenizer.json").write_text(train_bpe(iter(["def add(a, b): return a + b\n"] * 9), 280).json_text)
    write_model(
        folder / "base", model, initial_state(model, 1), tokenizer=folder / "tokenizer.json", card="A base model.\n"
    )
    documents = [np.tile(np.arange(9, dtype="uint16") ** 2, 100)]
    TokenShardWriter("uint16").write(ArtifactWriter(str(folder)), "train", documents)
    for ranks in (1, 2):
        gloo.run(ranks, _work, ranks, str(folder))
    return folder


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_layout_learns_the_same(runs: Path) -> None:
    reference = losses(runs / "1-0-fp32")
    assert reference[-1] < reference[0] - 0.1
    for case in CASES:
        limit = 1e-4 if case[2] == "fp32" else 2e-3
        assert losses(runs / "-".join(map(str, case))) == pytest.approx(reference, rel=limit), case


@pytest.mark.slow
def test_checkpoints_hold_the_adapter_alone(runs: Path) -> None:
    from safetensors import safe_open

    names = []
    for part in (0, 1):
        path = runs / f"2-3-fp32/checkpoints/step-{STEPS}/stage-0-part-{part}.safetensors"
        with safe_open(path, framework="pt") as file:
            names += list(file.keys())
    assert names
    assert all(".lora_" in name for name in names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
@pytest.mark.parametrize("case", ["1-0-fp32", "2-3-bf16"])
def test_peft_computes_what_our_reader_computes(runs: Path, case: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from starloom.model.adapter import read_adapted

    folder = runs / case / "model"
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(runs / "base"), str(folder)).eval()
    ids = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        expected: Any = theirs(input_ids=ids).logits
        ours = read_adapted(folder)(ids)
        base = read_adapted(runs / "base")(ids)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert (ours - base).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layout": {"tensor": 2}}, "lora goes with data ranks alone"),
        ({"optimizer": {"name": "muon"}}, "lora goes with optimizer.name = 'adamw'"),
        ({"lora": {"rank": 0}}, "greater than 0"),
        ({"lora": {"targets": ["wte"]}}, "attn.c_attn"),
    ],
)
def test_what_an_adapter_cannot_be_is_told_in_one_line(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        validate(PretrainConfig, {"lora": {"rank": 4}, **settings}, where="step")
