"""Fine-tuning for chat end to end: a toy model learns a dialogue by heart and says it through the chat endpoint."""

import json
from pathlib import Path

import httpx
import pytest

from serve_apps.hosting import serving
from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.model.folder import read_config
from starloom.step import run_step
from tests.models import tiny_tokenizer, write_tiny_model
from tests.patience import PATIENCE
from train_jobs.config import OptimizerConfig
from train_jobs.finetune import STEP, FinetuneConfig
from train_jobs.layout import Layout

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ANSWERS = {"red": "apples", "blue": "the sea", "green": "grass", "white": "snow"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing, and conversations to learn."""
    path = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer("what is red blue green white? apples the sea grass snow is\n", 320)
    write_tiny_model(path / "model", tokenizer, hidden=64, context=64, init_std=0.02)
    lines = [
        {"messages": [{"role": "user", "content": f"what is {asked}?"}, {"role": "assistant", "content": told}]}
        for asked, told in ANSWERS.items()
    ]
    (path / "chat.jsonl").write_text("\n".join(json.dumps(line) for line in lines * 12))
    return path


def config(folder: Path, **changes: object) -> FinetuneConfig:
    values = {
        "conversations": [str(folder / "chat.jsonl")],
        "model_folder": str(folder / "model"),
        "context": 48,
        "epochs": 60,
        "global_batch": 8,
        "micro_batch": 4,
        "optimizer": OptimizerConfig(rate=3e-3, final_rate=3e-4, warmup_steps=4),
        "heldout_share": 0.2,
        "heldout_every": 20,
        "checkpoint_every": 50,
        "layout": Layout(data=2),
    }
    return FinetuneConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def chat(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run_step(STEP, config(folder), root=str(tmp_path_factory.mktemp("run")), name="chat")


def test_the_assistants_turns_are_learned(chat: Artifact, folder: Path) -> None:
    rows = [json.loads(line) for line in chat.read_text("metrics.jsonl").splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[0] > 4
    assert losses[-1] < 0.1
    heldout = [row["heldout_loss"] for row in rows if "heldout_loss" in row]
    assert heldout[-1] < heldout[0] / 2
    names = read_config(chat.local("model")), read_config(folder / "model")
    assert names[0].vocabulary == names[1].vocabulary + 4  # the roles and the end of a turn


def test_the_chat_endpoint_says_what_was_learned(chat: Artifact) -> None:
    with serving(str(chat.local("model")), port=0) as url:
        for asked, told in ANSWERS.items():
            body = {
                "model": "model",
                "messages": [{"role": "user", "content": f"what is {asked}?"}],
                "max_tokens": 12,
                "temperature": 0,
            }
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE).json()
            choice = answer["choices"][0]
            assert choice["message"]["content"].strip() == told
            assert choice["finish_reason"] == "stop"


def test_the_result_does_not_depend_on_layout_or_zero_stage(folder: Path, tmp_path: Path) -> None:
    rows = {}
    for name, changes in {
        "two": {"layout": Layout(data=2), "zero": 3},
        "one": {"layout": Layout(), "zero": 1, "micro_batch": 4},
    }.items():
        settings = config(folder, epochs=2, **changes)
        made = run_step(STEP, settings, root=str(tmp_path / name), name="chat")
        rows[name] = [json.loads(line) for line in made.read_text("metrics.jsonl").splitlines() if '"loss"' in line]
    assert len(rows["one"]) == len(rows["two"]) > 1
    for one, two in zip(rows["one"], rows["two"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)


def test_context_beyond_the_models_is_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="context = 100 is more than the model's 64; lower it"):
        run_step(STEP, config(folder, context=100), root=str(tmp_path), name="chat")
