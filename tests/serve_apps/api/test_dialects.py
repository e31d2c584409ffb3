"""Meaning of the dialects' fields, official clients, and wrong input in each dialect's own shape."""

import json
import re
import time
from pathlib import Path

import httpx
import openai
import pytest
from huggingface_hub import InferenceClient

from serve_apps.api.app import DIALECTS
from serve_apps.api.errors import Problem
from serve_apps.api.service import independent
from serve_apps.engine.request import Sampling
from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running, Serve


def _post(server: Running, path: str, **body: object) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=PATIENCE)


def test_huggingface_hub_client_generates_and_streams_the_same(server: Running) -> None:
    client = InferenceClient(model=server.url)
    whole = client.text_generation("def f", max_new_tokens=8)
    assert "".join(client.text_generation("def f", max_new_tokens=8, stream=True)) == whole != ""


def test_openai_client_chats_and_names_errors(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    said = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=4, logprobs=True, top_logprobs=2
    )
    assert len(said.choices[0].logprobs.content[0].top_logprobs) == 2
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096") as refused:
        client.completions.create(model="tiny", prompt="x = 1\n" * 5000)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


def test_echo_with_logprobs_scores_the_prompt_and_adds_up(server: Running) -> None:
    answer = _post(server, "/v1/completions", prompt="def f(x)", max_tokens=0, echo=True, logprobs=1).json()
    choice = answer["choices"][0]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"]) == "def f(x)"
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert all(value <= 0 for value in choice["logprobs"]["token_logprobs"][1:])
    assert answer["usage"]["completion_tokens"] == 0


def test_best_of_gives_the_likeliest_of_the_seeds(server: Running) -> None:
    ask = {"prompt": "def", "max_tokens": 8, "seed": 5, "logprobs": 0, "ignore_eos": True}
    seeds = [one.seed for one in independent(Sampling(max_tokens=8, seed=5), 4)]
    tried = [_post(server, "/v1/completions", **{**ask, "seed": seed}).json()["choices"][0] for seed in seeds]
    likeliest = max(tried, key=lambda choice: sum(choice["logprobs"]["token_logprobs"]))
    best = _post(server, "/v1/completions", **ask, best_of=4).json()["choices"]
    assert [choice["text"] for choice in best] == [likeliest["text"]]


def test_stream_of_two_prompts_and_two_choices_equals_the_whole_answer(server: Running) -> None:
    ask = {"prompt": ["def f", "x ="], "n": 2, "max_tokens": 12, "seed": 1, "temperature": 0.9}
    whole = [choice["text"] for choice in _post(server, "/v1/completions", **ask).json()["choices"]]
    streamed = [""] * 4
    for line in _post(server, "/v1/completions", **ask, stream=True).text.split("\n\n"):
        if line.startswith("data: {"):
            choice = json.loads(line[6:])["choices"][0]
            streamed[choice["index"]] += choice["text"]
    assert streamed == whole
    assert len(set(whole)) > 1


def test_stop_string_over_token_borders_is_not_shown(server: Running) -> None:
    plain = _post(server, "/v1/completions", prompt="def", max_tokens=60, temperature=0).json()["choices"][0]["text"]
    stop = plain[20:25]
    choice = _post(server, "/v1/completions", prompt="def", max_tokens=60, temperature=0, stop=[stop]).json()
    assert choice["choices"][0]["text"] == plain[: plain.index(stop)]
    assert choice["choices"][0]["finish_reason"] == "stop"


def test_tokenize_in_three_shapes_and_back(server: Running) -> None:
    ids = _post(server, "/tokenize", content="def f").json()["tokens"]
    assert _post(server, "/tokenize", prompt="def f").json()["tokens"] == ids
    assert [one["id"] for one in _post(server, "/tokenize", inputs="def f").json()] == ids
    assert _post(server, "/detokenize", tokens=ids).json() == {"content": "def f"}


def test_metrics_name_what_was_done(server: Running) -> None:
    _post(server, "/v1/completions", prompt="def", max_tokens=4)
    text = httpx.get(f"{server.url}/metrics").text
    for name in ("time_to_first_token_seconds_count", "inter_token_latency_seconds_sum", "prefix_cache_hits_total"):
        assert f"vllm:{name}{{" in text
    assert 'vllm:generation_tokens_total{model_name="tiny"}' in text


WRONG = {
    "negative temperature": {"temperature": -1},
    "huge top_p": {"top_p": 7},
    "huge n": {"n": 100_000},
    "ten thousand stops": {"stop": ["x"] * 10_000},
    "negative tokens": {"max_tokens": -5},
    "id out of range": {"prompt": [10**6]},
    "half a surrogate pair": {"prompt": "\ud800"},
    "no prompt": {"prompt": None},
    "empty list": {"prompt": []},
    "seed of a kilometre": {"seed": 10**40},
    "text for a number": {"max_tokens": "many"},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_wrong_field_is_told_and_the_next_request_is_served(server: Running, change: dict) -> None:
    body = json.dumps({"prompt": "def", "max_tokens": 2, **change})
    refused = httpx.post(f"{server.url}/v1/completions", content=body)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert _post(server, "/v1/completions", prompt="def", max_tokens=2).status_code == 200


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[1, 2]", b"", b"{" * 5000], ids=["bytes", "list", "empty", "deep"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/generate", "/api/generate", "/infill"])
def test_body_that_is_no_request_is_told_in_the_dialect(server: Running, path: str, content: bytes) -> None:
    refused = httpx.post(server.url + path, content=content, headers={"Content-Type": "application/json"})
    assert refused.status_code in (400, 422), refused.text
    assert "error" in refused.json()
    if path == "/generate":
        assert refused.json()["error_type"] == "validation"


def test_empty_prompt_and_only_special_tokens_are_served(server: Running) -> None:
    for prompt in ("", "<|endoftext|>", "<fim_prefix><fim_suffix><fim_middle>"):
        answer = _post(server, "/v1/completions", prompt=prompt, max_tokens=3, ignore_eos=True)
        assert answer.json()["usage"]["completion_tokens"] == 3


def test_unknown_path_and_method_are_told_in_the_dialect(server: Running) -> None:
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["message"]
    assert httpx.get(f"{server.url}/generate").status_code == 405


def test_dashboard_asks_only_for_metrics_that_are_exported(server: Running) -> None:
    _post(server, "/v1/completions", prompt="def", max_tokens=4)
    httpx.get(f"{server.url}/nothing")
    exported = httpx.get(f"{server.url}/metrics").text
    dashboard = (Path(__file__).parents[3] / "platform" / "dashboards" / "serving.json").read_text()
    asked = set(re.findall(r"(?:vllm|starloom):\w+", dashboard))
    assert len(asked) > 12
    assert [name for name in asked if name not in exported] == []


def test_tgi_parameters_are_honoured_or_refused(server: Running) -> None:
    def asked(**parameters: object) -> httpx.Response:
        return _post(server, "/generate", inputs="def f", parameters={"max_new_tokens": 8, **parameters})

    greedy = asked().json()["generated_text"]
    assert asked(typical_p=0.9, seed=1).json() == asked(typical_p=0.9, seed=1).json()
    assert asked(typical_p=0.9, seed=1).json()["generated_text"] != greedy
    assert asked(adapter_id="tiny").json()["generated_text"] == greedy
    for name, value in {"watermark": True, "grammar": {"type": "json"}, "typical_p": 0, "beams": 2}.items():
        refused = asked(**{name: value})
        assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
        assert name in refused.json()["error"]
    assert asked(adapter_id="other").status_code == 404


def test_ten_thousand_stop_strings_are_refused_at_once_and_the_most_allowed_work(server: Running) -> None:
    ask = {"prompt": "def f", "max_tokens": 8, "temperature": 0}
    for stop in ([f"stop{n}" for n in range(10_000)], ["x" * 100_000]):
        began = time.perf_counter()
        refused = _post(server, "/v1/completions", **ask, stop=stop)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stop")
        assert time.perf_counter() - began < 2
    plain = _post(server, "/v1/completions", **ask).json()["choices"][0]["text"]
    allowed = _post(server, "/v1/completions", **ask, stop=[f"never {n}" for n in range(16)]).json()
    assert allowed["choices"][0]["text"] == plain


def test_what_is_told_of_device_and_precision_is_the_engines_own(serve: Serve) -> None:
    for weights, level in {"float32": "F32", "int8": "Q8_0"}.items():
        made = serve(weights=weights)
        assert httpx.get(f"{made.url}/v1/health").json()["device"] == made.engine.device == "cpu"
        listed = httpx.get(f"{made.url}/api/tags").json()["models"]
        assert [one["details"]["quantization_level"] for one in listed] == [level]


def test_each_path_is_refused_in_the_words_of_its_dialect() -> None:
    problem = Problem(400, "max_tokens: is 0")
    shapes = {
        path: DIALECTS.of(path).shape(problem) for path in ("/v1/completions", "/generate", "/api/chat", "/infill")
    }
    assert shapes["/v1/completions"][1]["error"]["param"] == "max_tokens"
    assert shapes["/generate"] == (422, {"error": "max_tokens: is 0", "error_type": "validation"})
    assert shapes["/api/chat"] == (400, {"error": "max_tokens: is 0"})
    assert shapes["/infill"][1]["error"]["code"] == 400
    assert DIALECTS.of("/nobody/knows").name == "OpenAI"
    assert "/v1/health" in DIALECTS.open_paths
    assert DIALECTS.of("/api/chat").line({"error": "x"}) == '{"error": "x"}\n'
