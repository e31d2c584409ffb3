"""The served API with the clients that people use."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from serve_apps.hosting import model_folder, serving
from serve_apps.serve import _named
from starloom.errors import UserError
from tests.models import tiny_tokenizer, write_tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served")
    return write_tiny_model(path / "tiny", tiny_tokenizer())


@pytest.fixture(scope="module")
def url(ray_cluster: str, folder: Path) -> Iterator[str]:
    with serving(folder) as base:
        yield base


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_openai_client_streamed_and_whole_texts_are_the_same(client: openai.OpenAI) -> None:
    ask = {"model": "tiny", "prompt": "def f", "max_tokens": 30, "temperature": 0.8, "seed": 3}
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(**ask, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text != ""
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert client.models.list().data[0].id == "tiny"


def test_openai_client_suffix_n_and_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="def ", suffix="\n", n=2, max_tokens=5, logprobs=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(value <= 0 for value in answer.choices[0].logprobs.token_logprobs)


def test_wrong_input_is_told_and_the_next_request_is_served(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 128 tokens"):
        client.completions.create(model="tiny", prompt="x = 1\n" * 500, stream=True)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    refused = httpx.post(f"{url}/generate", json={"inputs": "x", "parameters": {"max_new_tokens": -1}})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    served = httpx.post(f"{url}/generate", json={"inputs": "x", "parameters": {"max_new_tokens": 4}})
    assert isinstance(served.json()["generated_text"], str)


def test_tgi_root_answers_an_array_and_streams_the_same(url: str) -> None:
    body = {"inputs": "def f", "parameters": {"max_new_tokens": 8}}
    array = httpx.post(f"{url}/", json=body).json()
    stream = httpx.post(f"{url}/generate_stream", json=body).text
    assert stream.startswith('data: {"index": 1')
    assert httpx.post(f"{url}/generate", json=body).json() == array[0]
    assert "vllm:num_requests_running" in httpx.get(f"{url}/metrics").text
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/info").json()["max_total_tokens"] == 128


def test_port_in_use_and_missing_model_are_told(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="choose another with --port"), serving(folder, taken.getsockname()[1]):
            pass
    with pytest.raises(UserError, match="no finished model"):
        model_folder(str(tmp_path))


def test_run_root_serves_its_newest_model(folder: Path, tmp_path: Path) -> None:
    import shutil

    from starloom.config import Config
    from starloom.step import Outcome, Step, StepContext, run_step

    class Empty(Config):
        pass

    def copy(_config: Empty, context: StepContext) -> Outcome:
        shutil.copytree(folder, context.output.local_folder("model"), dirs_exist_ok=True)
        return Outcome()

    made = run_step(Step(config=Empty, run=copy, produces="model"), Empty(), root=str(tmp_path), name="first")
    assert model_folder(str(tmp_path)) == str(made.local("model"))
    assert _named(str(tmp_path)) == (tmp_path.name, str(made.local("model")))
    assert _named(f"other={tmp_path}") == ("other", str(made.local("model")))


def test_client_that_goes_away_from_serve_is_cancelled_in_the_engine(url: str) -> None:
    def running() -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("vllm:num_requests_running")).split()[-1])

    def cancelled() -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("starloom:cancelled_requests_total")).split()[-1])

    before = cancelled()
    body = {"prompt": "def f", "max_tokens": 100, "ignore_eos": True, "stream": True, "logprobs": 0}
    for _ in range(20):  # an answer of 100 tokens may be over before the client is gone
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
            next(answer.iter_bytes())
        if cancelled() > before:
            break
    assert cancelled() > before
    assert running() == 0


def test_folder_with_an_equals_sign_is_itself_before_it_is_a_name(folder: Path, tmp_path: Path) -> None:
    import shutil

    swept = tmp_path / "lr=3e-4"
    shutil.copytree(folder, swept)
    assert _named(str(swept)) == ("lr=3e-4", str(swept))
    assert _named(f"mine={swept}") == ("mine", str(swept))
    with pytest.raises(UserError, match="no finished model"):
        _named(str(tmp_path / "lr=1e-4"))
