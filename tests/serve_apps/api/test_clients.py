"""Clients that people use, unmodified, in an environment of their own: ``make clients`` installs them."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from starloom.model.folder import read_model
from starloom.tokenizer import load_tokenizer
from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
CLIENTS = ROOT / "tests" / "serve_apps" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
MODULES = CLIENTS / "node_modules"
ASK: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
TASK = """task: likelier
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
"""
needs_python = pytest.mark.skipif(not PYTHON.exists(), reason="needs the clients of Python: make clients")
needs_node = pytest.mark.skipif(not MODULES.exists(), reason="needs the clients of npm: make clients")


def _told(command: list[str], home: Path, **more: str) -> Any:
    """The JSON that a client's script prints last."""
    offline = {"HF_DATASETS_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=home,
        env={**os.environ, **offline, "HOME": str(home), **more},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def _expected(server: Running) -> dict[str, str]:
    text = httpx.post(f"{server.url}/v1/completions", json={"prompt": "def f", **ASK}).json()["choices"][0]["text"]
    turns = {"messages": [{"role": "user", "content": "def f"}]}
    chat = httpx.post(f"{server.url}/v1/chat/completions", json={**turns, **ASK}).json()["choices"][0]
    return {"text": text, "chat": chat["message"]["content"]}


@needs_python
@pytest.mark.parametrize("client", ["huggingface_hub", "ollama", "litellm", "langchain", "instructor"])
def test_python_client_gets_the_models_answer_every_way(server: Running, client: str, tmp_path: Path) -> None:
    expected = _expected(server)
    told = _told([str(PYTHON), str(CLIENTS / "python_clients.py"), client, server.url], tmp_path)
    assert {way: text for way, text in told.items() if text != expected[way.split()[0]]} == {}


@needs_node
@pytest.mark.parametrize("client", ["openai", "ollama", "ai-sdk"])
def test_npm_client_gets_the_models_answer_every_way(server: Running, client: str, tmp_path: Path) -> None:
    expected = _expected(server)
    told = _told(["node", str(CLIENTS / "node_clients.mjs"), client, server.url], tmp_path)
    assert told
    assert {way: text for way, text in told.items() if text != expected[way.split()[0]]} == {}


@needs_node
def test_tabby_agent_shows_a_completion_and_tells_that_it_was_taken(server: Running, tmp_path: Path) -> None:
    told = _told(["node", str(CLIENTS / "tabby_agent.mjs"), server.url], tmp_path)
    assert told["status"] == "ready"
    assert told["shown"]["choices"][0]["text"]
    assert (
        'completion_events_total{client="",key="",language="",type="select"}' in httpx.get(f"{server.url}/metrics").text
    )


@needs_node
def test_continues_command_line_chats(server: Running, tmp_path: Path) -> None:
    model = {"name": "tiny", "provider": "openai", "model": "tiny", "apiBase": f"{server.url}/v1", "apiKey": "none"}
    options = {"maxTokens": 12, "temperature": 0}
    settings = {"name": "local", "version": "0.0.1", "schema": "v1"}
    path = tmp_path / "config.json"  # YAML is a superset of JSON
    path.write_text(json.dumps({**settings, "models": [{**model, "defaultCompletionOptions": options}]}))
    path = path.rename(tmp_path / "config.yaml")
    # its tools are left out: the tiny model's template has no place for them
    command = ["node", str(MODULES / ".bin" / "cn"), "-p", "def f", "--config", str(path), "--exclude", "*"]
    environment = {**os.environ, "HOME": str(tmp_path), "CONTINUE_TELEMETRY_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


@needs_python
def test_lm_eval_has_the_models_own_log_likelihoods(server: Running, tmp_path: Path) -> None:
    prompt, choices = "def f", ["(x):", "@@@", "\n"]
    rows = tmp_path / "likelier.jsonl"
    rows.write_text(json.dumps({"prompt": prompt, "choices": choices}))
    (tmp_path / "likelier.yaml").write_text(TASK.replace("FILE", str(rows)))
    command = [str(PYTHON), str(CLIENTS / "python_clients.py"), "lm_eval", server.url]
    told = _told(command, tmp_path, LM_EVAL_TASK=str(tmp_path), TOKENIZER=str(server.folder), HF_HUB_OFFLINE="1")
    code, model = load_tokenizer(server.folder), read_model(server.folder)
    expected = []
    for choice in choices:
        ids, given = code.encode(prompt + choice), len(code.encode(prompt))
        with torch.inference_mode():
            scores = model(torch.tensor([ids]))[0].log_softmax(-1)
        expected.append(sum(float(scores[place - 1, ids[place]]) for place in range(given, len(ids))))
    assert json.loads(told["log-likelihoods"]) == pytest.approx(expected, abs=1e-3)
