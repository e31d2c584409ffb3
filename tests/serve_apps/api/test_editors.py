"""Requests as editors' plugins write them, sent as bytes, and what the plugins read of the answers."""

import http.client
import json

import pytest

from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running


def _sent(server: Running, path: str, body: str, method: str = "POST") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request(method, path, body.encode(), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.headers["content-type"], response.read().decode()


def _events(text: str) -> list[dict]:
    assert text.endswith("\n\n")
    return [json.loads(line[5:]) for line in text.split("\n\n") if line and line != "data: [DONE]"]


def test_llm_ls_reads_generated_text_of_tgi(server: Running) -> None:
    body = (
        '{"inputs":"<fim_prefix>def f(x):\\n    <fim_suffix>\\n<fim_middle>","parameters":{"max_new_tokens":8,'
        '"temperature":0.2,"do_sample":true,"top_p":0.95,"stop":["<|endoftext|>"],"return_full_text":false}}'
    )
    status, _, text = _sent(server, "/generate", body)
    assert status == 200
    assert isinstance(json.loads(text)["generated_text"], str)


def test_llm_ls_with_parameters_in_parameters_is_understood(server: Running) -> None:
    body = '{"inputs":"def f","parameters":{"max_new_tokens":4,"parameters":{"return_full_text":true}}}'
    assert json.loads(_sent(server, "/generate", body)[2])["generated_text"].startswith("def f")


def test_llm_ls_openai_reads_choices_and_the_detail_of_errors(server: Running) -> None:
    body = '{"model":"tiny","prompt":"<fim_prefix>a<fim_suffix>b<fim_middle>","max_tokens":4,"temperature":0.2}'
    assert isinstance(json.loads(_sent(server, "/v1/completions", body)[2])["choices"][0]["text"], str)
    status, _, text = _sent(server, "/v1/completions", body.replace('"temperature":0.2', '"temperature":-1'))
    detail = json.loads(text)["detail"][0]
    assert (status, detail["loc"]) == (400, "temperature")
    assert set(detail) == {"loc", "msg", "type"}


def test_llm_ls_fetches_the_tokenizer(server: Running) -> None:
    status, _, text = _sent(server, "/tokenizer.json", "", "GET")
    assert (status, text) == (200, (server.folder / "tokenizer.json").read_text())


def test_continue_reads_the_window_and_the_tgi_stream(server: Running) -> None:
    info = json.loads(_sent(server, "/info", "", "GET")[2])
    assert info["max_input_length"] == info["max_input_tokens"] == 4095
    assert info["kernels"] in ("native, float32 weights", "torch")
    body = '{"inputs":"def f","parameters":{"max_new_tokens":5,"temperature":0.1,"details":true}}'
    status, kind, text = _sent(server, "/generate_stream", body)
    events = _events(text)
    assert (status, kind.split(";")[0]) == (200, "text/event-stream")
    assert all(event["generated_text"] is None for event in events[:-1])
    assert events[-1]["generated_text"] == "".join(event["token"]["text"] for event in events)
    assert events[-1]["details"]["finish_reason"] == "length"


def test_minuet_sends_suffix_three_times_and_reads_a_stream(server: Running) -> None:
    body = (
        '{"model":"tiny","prompt":"def f(x):\\n    return ","suffix":"\\n\\nf(1)\\n","stream":true,"max_tokens":6,'
        '"top_p":0.9,"stop":["\\n\\n"]}'
    )
    for _ in range(3):
        events = _events(_sent(server, "/v1/completions", body)[2])
        assert events[-1]["choices"][0]["finish_reason"] in ("length", "stop")
    assert server.engine.counters.prefix_hits > 0  # the second and third find the first one's prompt


def test_tabby_extensions_find_health_settings_and_segments(server: Running) -> None:
    assert json.loads(_sent(server, "/v1/health", "", "GET")[2])["version"]["git_describe"]
    assert json.loads(_sent(server, "/v1beta/server_setting", "", "GET")[2])["disable_client_side_telemetry"]
    body = (
        '{"language":"python","segments":{"prefix":"def f(x):\\n    ","suffix":"\\n","filepath":"a.py",'
        '"clipboard":""},"user":"u"}'
    )
    answer = json.loads(_sent(server, "/v1/completions", body)[2])
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"][0]["index"] == 0
    assert _sent(server, "/v1/events", '{"type":"view","completion_id":"x","choice_index":0}')[0] == 200


def test_twinny_reads_ollamas_lines(server: Running) -> None:
    body = (
        '{"model":"tiny:latest","prompt":"<fim_prefix>a<fim_suffix>b<fim_middle>","stream":true,"raw":true,'
        '"keep_alive":"5m","options":{"temperature":0.2,"num_predict":6}}'
    )
    status, kind, text = _sent(server, "/api/generate", body)
    lines = [json.loads(line) for line in text.splitlines()]
    assert (status, kind) == (200, "application/x-ndjson")
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["eval_count"] == 6
    assert json.loads(_sent(server, "/api/tags", "", "GET")[2])["models"][0]["name"] == "tiny"


def test_gptel_streams_a_chat_with_usage(server: Running) -> None:
    body = (
        '{"model":"tiny","stream":true,"stream_options":{"include_usage":true},"max_tokens":5,"messages":'
        '[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Hi"}]}]}'
    )
    text = _sent(server, "/v1/chat/completions", body)[2]
    events = _events(text)
    assert text.endswith("data: [DONE]\n\n")
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-2]["choices"][0]["finish_reason"] in ("length", "stop")
    assert events[-1]["choices"] == []
    assert 0 < events[-1]["usage"]["completion_tokens"] <= 5


@pytest.mark.parametrize("extra", ["[]", '[{"filename":"b.py","text":"y = 2\\n"}]'], ids=["alone", "other files"])
def test_llama_vim_infill_reads_content_and_timings(server: Running, extra: str) -> None:
    body = (
        f'{{"input_prefix":"x = 1\\n","input_suffix":"\\nprint(x)\\n","input_extra":{extra},"prompt":"y = ",'
        '"n_predict":6,"stop":[],"n_indent":0,"top_k":40,"top_p":0.9,"samplers":["top_k","top_p","infill"],'
        '"stream":false,"cache_prompt":true,"t_max_prompt_ms":500,"t_max_predict_ms":10000}'
    )
    answer = json.loads(_sent(server, "/infill", body)[2])
    assert isinstance(answer["content"], str)
    assert answer["timings"]["predicted_n"] == answer["tokens_predicted"] > 0
    warm = json.loads(_sent(server, "/infill", body.replace('"n_predict":6', '"n_predict":0'))[2])
    assert warm["content"] == ""


def test_jupytercoder_posts_to_the_root_and_reads_an_array(server: Running) -> None:
    body = '{"inputs":"def f","parameters":{"max_new_tokens":5,"return_full_text":false}}'
    assert isinstance(json.loads(_sent(server, "/", body)[2])[0]["generated_text"], str)


def test_emacs_minuet_fills_the_gap_without_optional_fields(server: Running) -> None:
    body = '{"model":"tiny","prompt":"def f(x):\\n    return ","suffix":"\\n","stream":true,"max_tokens":6}'
    events = _events(_sent(server, "/v1/completions", body)[2])
    assert all(isinstance(event["choices"][0]["text"], str) for event in events)
    assert events[-1]["choices"][0]["finish_reason"] in ("length", "stop")


def test_jupyter_ai_chats_through_langchains_openai(server: Running) -> None:
    body = (
        '{"messages":[{"content":"You are Jupyternaut.","role":"system"},{"content":"def f","role":"user"}],'
        '"model":"tiny","max_completion_tokens":5,"n":1,"stream":true,"temperature":0.7,'
        '"stream_options":{"include_usage":true},"user":"me","parallel_tool_calls":null,"logit_bias":null}'
    )
    status, kind, text = _sent(server, "/v1/chat/completions", body)
    assert (status, kind.split(";")[0]) == (200, "text/event-stream")
    assert text.endswith("data: [DONE]\n\n")
    assert _events(text)[-1]["usage"]["completion_tokens"] <= 5
    whole = json.loads(_sent(server, "/v1/chat/completions", body.replace('"stream":true', '"stream":false'))[2])
    assert whole["choices"][0]["message"]["role"] == "assistant"
    models = json.loads(_sent(server, "/v1/models", "", "GET")[2])
    assert [card["id"] for card in models["data"]] == ["tiny"]
