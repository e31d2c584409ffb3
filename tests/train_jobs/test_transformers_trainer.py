"""An exported folder trains with the Hugging Face `Trainer` and a DeepSpeed configuration."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_jobs.train_tokenizer import train_bpe
from starloom.model.config import ModelConfig
from starloom.model.folder import read_model, write_model
from starloom.model.model import initial_state
from starloom.ports import free_port
from tests.patience import PATIENCE

PROGRAM = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

folder, output = sys.argv[1], sys.argv[2]
set_seed(0)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer("def add(a, b): return a + b\\n" * 6)["input_ids"][:48]
rows = [{"input_ids": ids, "labels": ids}] * 64
settings = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 1,
    "zero_optimization": {"stage": 2},
    "optimizer": {"type": "AdamW", "params": {"lr": 3e-3, "torch_adam": True}},
    "zero_allow_untested_optimizer": True,
}
arguments = TrainingArguments(
    output, per_device_train_batch_size=4, num_train_epochs=4, learning_rate=3e-3, logging_steps=1, save_strategy="no",
    report_to=[], use_cpu=True, deepspeed=settings,
)
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
trainer.train()
losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
trainer.save_model(output)
print(json.dumps({"losses": losses, "engine": type(trainer.model_wrapped).__name__}))
"""


@pytest.mark.slow
def test_exported_folder_trains_with_trainer_and_deepspeed(tmp_path: Path) -> None:
    tokenizer = train_bpe(iter(["def add(a, b):\n    return a + b\n"] * 9), 280)
    (tmp_path / "tokenizer.json").write_text(tokenizer.json_text)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    shape = ModelConfig(layers=2, hidden=32, heads=4, vocabulary=tokenizer.size, context=64)
    write_model(tmp_path / "model", shape, initial_state(shape, 1), tokenizer=tmp_path, card="")
    port = str(free_port())
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **alone, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["engine"] == "DeepSpeedEngine"
    assert result["losses"][-1] < result["losses"][0] / 2
    assert read_model(tmp_path / "out").config == read_model(tmp_path / "model").config  # and it comes back to us
