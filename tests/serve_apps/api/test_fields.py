"""Fields do what they say, or are refused by their names: nothing that changes an answer is left alone."""

import json
import re

import httpx
import openai
import pytest

from tests.docs import fields as table
from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running

TURN = {"messages": [{"role": "user", "content": "def f"}]}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "size": {"enum": [1, 2, 30]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


def _post(server: Running, path: str, **body: object) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=PATIENCE)


def _text(server: Running, **body: object) -> str:
    answer = _post(server, "/v1/completions", **{"prompt": "def f", "max_tokens": 30, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def test_table_of_fields_is_that_of_the_classes() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run python -m tests.docs.fields"


UNKNOWN = {
    "/v1/completions": {"prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": TURN,
    "/v1/responses": {"input": "x"},
    "/v1/messages": {**TURN, "max_tokens": 1},
    "/generate": {"inputs": "x"},
    "/api/generate": {"prompt": "x"},
    "/api/chat": TURN,
    "/infill": {"input_prefix": "x"},
    "/completion": {"prompt": "x"},
}


@pytest.mark.parametrize("path", UNKNOWN)
def test_field_that_nobody_knows_is_refused_by_its_name(server: Running, path: str) -> None:
    refused = _post(server, path, **UNKNOWN[path], frobnicate=3)
    assert refused.status_code == (422 if path == "/generate" else 400)
    assert "frobnicate: is no field that is known here" in refused.text
    assert "error" in refused.json()


REFUSED: dict[str, tuple[str, dict[str, object]]] = {
    "image parts": ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    "tools without a place": ("/v1/chat/completions", {**TURN, "tools": [{"function": {"name": "f"}}]}),
    "beam search": ("/v1/completions", {"prompt": "x", "use_beam_search": True}),
    "bad words": ("/v1/completions", {"prompt": "x", "bad_words": ["y"]}),
    "two formats": (
        "/v1/completions",
        {"prompt": "x", "guided_regex": "a", "response_format": {"type": "json_object"}},
    ),
    "no schema": ("/v1/completions", {"prompt": "x", "guided_json": {"type": "nonsense"}}),
    "no regex": ("/v1/completions", {"prompt": "x", "guided_regex": "a(b"}),
    "no id": ("/v1/completions", {"prompt": "x", "logit_bias": {"100000": 1}}),
    "stop id": ("/v1/completions", {"prompt": "x", "stop_token_ids": [100000]}),
    "best of fewer": ("/v1/completions", {"prompt": "x", "n": 3, "best_of": 2}),
    "earlier response": ("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}),
    "thinking": ("/v1/messages", {**TURN, "max_tokens": 1, "thinking": {"type": "enabled"}}),
    "mirostat": ("/api/generate", {"prompt": "x", "options": {"mirostat": 2}}),
    "images": ("/api/generate", {"prompt": "x", "images": ["AAAA"]}),
    "format": ("/api/generate", {"prompt": "x", "format": "xml"}),
    "white space": ("/v1/completions", {"prompt": "x", "guided_whitespace_pattern": " *"}),
    "what is kept": ("/api/generate", {"prompt": "x", "options": {"num_keep": 100}}),
    "dry": ("/completion", {"prompt": "x", "dry_multiplier": 0.8}),
    "two grammars": ("/completion", {"prompt": "x", "grammar": 'root ::= "a"', "json_schema": {}}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_the_answer_and_is_not_built_is_refused(server: Running, case: str) -> None:
    path, body = REFUSED[case]
    refused = _post(server, path, **body)
    assert refused.status_code == 400, refused.text
    assert "error" in refused.json()


def test_what_asks_for_nothing_is_taken(server: Running) -> None:
    nothing = {"use_beam_search": False, "bad_words": [], "length_penalty": 1.0, "user": "me", "logit_bias": None}
    assert _text(server, **nothing) == _text(server)
    chat = _post(server, "/v1/chat/completions", **TURN, tools=[], modalities=["text"], function_call="none")
    assert chat.status_code == 200


def test_logit_bias_bans_and_forces(server: Running) -> None:
    plain = _post(server, "/v1/completions", prompt="def f", max_tokens=8, temperature=0, logprobs=1).json()
    told = plain["choices"][0]["logprobs"]["tokens"]
    place = next(number for number, token in enumerate(told) if len(token) == 1 and token.isascii())
    (chosen,) = _post(server, "/tokenize", content=told[place]).json()["tokens"]
    banned = _post(
        server,
        "/v1/completions",
        prompt="def f",
        max_tokens=8,
        temperature=0,
        logprobs=1,
        logit_bias={str(chosen): -100},
    ).json()
    assert told[place] not in banned["choices"][0]["logprobs"]["tokens"]
    (letter,) = _post(server, "/tokenize", content="q").json()["tokens"]
    assert _text(server, logit_bias={str(letter): 100}, max_tokens=5) == "qqqqq"
    assert _text(server, logit_bias={str(letter): 100}, max_tokens=5, stop_token_ids=[letter]) == ""
    assert _text(server, logit_bias={str(letter): 100}, max_tokens=9, stop_token_ids=[letter], min_tokens=3) != ""


def test_min_p_of_one_is_greedy(server: Running) -> None:
    assert _text(server, temperature=2, min_p=1.0, seed=3) == _text(server, temperature=0)
    assert _text(server, temperature=2, min_p=0.0, seed=3) != _text(server, temperature=0)


def test_min_tokens_keep_the_end_and_stops_away(server: Running) -> None:
    end = {"0": 100}  # the end of the text
    assert _text(server, logit_bias=end) == ""
    answer = _post(server, "/v1/completions", prompt="x", max_tokens=30, logit_bias=end, min_tokens=7).json()
    assert answer["usage"]["completion_tokens"] == 8
    stop = _text(server)[2:4]
    assert len(_text(server, stop=[stop])) < len(_text(server, stop=[stop], min_tokens=20))


def test_stop_string_can_be_told(server: Running) -> None:
    stop = _text(server)[5:8]
    assert _text(server, stop=[stop], include_stop_str_in_output=True) == _text(server, stop=[stop]) + stop


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_json_of_a_schema_in_every_dialect(server: Running, temperature: float) -> None:
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    flat = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}
    more = {"max_tokens": 200, "temperature": temperature, "seed": 5}
    options = {"num_predict": 200, "temperature": temperature}
    chat = _post(server, "/v1/chat/completions", **TURN, **more, response_format=named).json()
    generated = _post(server, "/api/generate", prompt="x", format=SCHEMA, stream=False, options=options).json()
    said = _post(server, "/api/chat", **TURN, format=SCHEMA, stream=False, options=options).json()
    wanted = {"max_new_tokens": 200, "grammar": {"type": "json", "value": SCHEMA}}
    texts = [
        _text(server, **more, response_format=named),
        _text(server, **more, guided_json=SCHEMA),
        _text(server, **more, guided_json=json.dumps(SCHEMA)),
        _text(server, **more, structured_outputs={"json": SCHEMA}),
        chat["choices"][0]["message"]["content"],
        generated["response"],
        said["message"]["content"],
        _post(server, "/generate", inputs="x", parameters=wanted).json()["generated_text"],
        _post(server, "/completion", prompt="x", json_schema=SCHEMA, n_predict=200).json()["content"],
        _post(server, "/v1/responses", input="x", text=flat, max_output_tokens=200).json()["output"][0]["content"][0][
            "text"
        ],
    ]
    for text in texts:
        value = json.loads(text)
        assert set(value) == {"name", "size"}, text
        assert value["size"] in (1, 2, 30)
    assert chat["choices"][0]["finish_reason"] == "stop"


def test_other_formats_are_kept_to(server: Running) -> None:
    assert isinstance(json.loads(_text(server, response_format={"type": "json_object"}, max_tokens=2000)), dict)
    assert re.fullmatch("[ab]{3}-[0-9]+", _text(server, guided_regex="[ab]{3}-[0-9]{1,9}", temperature=1))
    assert _text(server, guided_choice=["yes!", "(no)"]) in ("yes!", "(no)")
    assert _text(server, guided_grammar='root ::= "x" | "y"') in "xy"
    assert _text(server, structured_outputs={"grammar": 'start: "p" | "q"'}) in "pq"
    fixed = _post(server, "/completion", prompt="x", grammar='root ::= "abc"').json()
    assert (fixed["content"], fixed["stop_type"]) == ("abc", "eos")


def test_streams_with_a_format_equal_the_whole_answer(server: Running) -> None:
    ask = {"prompt": "x", "max_tokens": 100, "seed": 2, "guided_json": SCHEMA, "n": 2}
    whole = [choice["text"] for choice in _post(server, "/v1/completions", **ask).json()["choices"]]
    streamed = ["", ""]
    for line in _post(server, "/v1/completions", **ask, stream=True).text.split("\n\n"):
        if line.startswith("data: {"):
            choice = json.loads(line[6:])["choices"][0]
            streamed[choice["index"]] += choice["text"]
    assert streamed == whole


def test_penalties_of_ollama_look_back_as_far_as_is_asked(server: Running) -> None:
    def said(**options: object) -> str:
        asked = {"num_predict": 40, "temperature": 0, **options}
        return str(_post(server, "/api/generate", prompt="x", stream=False, options=asked).json()["response"])

    assert said(repeat_penalty=2.0, repeat_last_n=0) == said()
    assert said(repeat_penalty=2.0, repeat_last_n=-1) != said()
    assert said(repeat_penalty=2.0, repeat_last_n=-1) != said(repeat_penalty=2.0, repeat_last_n=2)


def test_twenty_logprobs_and_tokens_found_in_the_cache(server: Running) -> None:
    ask = {"prompt": "x = 1\n" * 40, "max_tokens": 1, "logprobs": 20, "temperature": 0}
    _post(server, "/v1/completions", **ask)
    again = _post(server, "/v1/completions", **ask).json()
    assert len(again["choices"][0]["logprobs"]["top_logprobs"][0]) == 20
    used = again["usage"]
    assert 100 < used["prompt_tokens_details"]["cached_tokens"] < used["prompt_tokens"]
    infill = {"input_prefix": "x = 1\n" * 40, "n_predict": 1}
    _post(server, "/infill", **infill)
    assert _post(server, "/infill", **infill).json()["tokens_cached"] > 100


def test_echo_with_a_suffix_and_in_a_stream(server: Running) -> None:
    assert _text(server, echo=True, suffix="\n") == "def f" + _text(server, suffix="\n")
    stream = _post(server, "/v1/completions", prompt="def f", max_tokens=4, temperature=0, echo=True, stream=True).text
    parts = [json.loads(line[6:])["choices"][0]["text"] for line in stream.split("\n\n") if line.startswith("data: {")]
    assert parts[0] == "def f"
    assert "".join(parts) == "def f" + _text(server, max_tokens=4)


def test_responses_whole_and_streamed_by_openais_client(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    ask = {"model": "tiny", "input": "def f", "instructions": "Be brief.", "max_output_tokens": 6, "temperature": 0}
    whole = client.responses.create(**ask)
    assert whole.status in ("completed", "incomplete")
    assert whole.usage.output_tokens <= 6
    events = list(client.responses.create(**ask, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text != ""


def test_messages_whole_streamed_and_counted(server: Running) -> None:
    ask = {**TURN, "system": [{"type": "text", "text": "Be brief."}], "max_tokens": 6, "temperature": 0, "model": "any"}
    whole = _post(server, "/v1/messages", **ask).json()
    assert (whole["type"], whole["role"], whole["stop_reason"]) == ("message", "assistant", "max_tokens")
    lines = _post(server, "/v1/messages", **ask, stream=True).text.split("\n\n")[:-1]
    events = [(line.split("\n")[0][7:], json.loads(line.split("\n")[1][6:])) for line in lines]
    assert all(name == event["type"] for name, event in events)
    assert [events[0][0], events[1][0], events[-1][0]] == ["message_start", "content_block_start", "message_stop"]
    text = "".join(event["delta"]["text"] for name, event in events if name == "content_block_delta")
    assert text == whole["content"][0]["text"] != ""
    stopped = _post(server, "/v1/messages", **ask, stop_sequences=[text[1:3]]).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", text[1:3])
    counted = _post(server, "/v1/messages/count_tokens", **TURN, system="Be brief.").json()
    assert counted["input_tokens"] == whole["usage"]["input_tokens"] + whole["usage"]["cache_read_input_tokens"]
    refused = _post(server, "/v1/messages", **TURN).json()
    assert (refused["type"], refused["error"]["type"]) == ("error", "invalid_request_error")


def test_ollama_shows_what_is_there(server: Running) -> None:
    assert httpx.head(f"{server.url}/").status_code == httpx.head(f"{server.url}/api/tags").status_code == 200
    shown = _post(server, "/api/show", model="tiny").json()
    assert shown["capabilities"] == ["completion", "insert"]
    assert shown["model_info"]["gpt_bigcode.context_length"] == 4096
    assert httpx.get(f"{server.url}/api/ps").json()["models"][0]["name"] == "tiny"
    loaded = _post(server, "/api/generate", model="tiny").json()
    assert (loaded["done"], loaded["done_reason"], loaded["response"]) == (True, "load", "")
    assert _post(server, "/api/chat", model="tiny", messages=[], stream=False).json()["done_reason"] == "load"


def test_llamacpps_completion_and_props(server: Running) -> None:
    assert httpx.get(f"{server.url}/props").json()["default_generation_settings"]["n_ctx"] == 4096
    ask = {"prompt": "def f", "n_predict": 4, "temperature": 0}
    whole = _post(server, "/completion", **ask, n_probs=3).json()
    assert len(whole["completion_probabilities"][0]["top_logprobs"]) == 3
    lines = _post(server, "/completion", **ask, stream=True).text.split("\n\n")[:-1]
    assert "".join(json.loads(line[6:])["content"] for line in lines) == whole["content"]
    few = _post(server, "/completion", **ask, response_fields=["content", "timings/predicted_n"]).json()
    assert few == {"content": whole["content"], "predicted_n": 4}
    (letter,) = _post(server, "/tokenize", content="q").json()["tokens"]
    assert _post(server, "/completion", **ask, logit_bias=[[letter, 100]]).json()["content"] == "qqqq"


def test_events_are_counted_by_client_language_and_key_and_never_kept(server: Running) -> None:
    sent = {"type": "select", "completion_id": "cmpl-1", "characters": 40, "language": "Python"}
    headers = {"X-Starloom-Client": "vim/1.0"}
    assert httpx.post(f"{server.url}/v1/events", json=sent, headers=headers).status_code == 200
    for number in range(100):
        httpx.post(f"{server.url}/v1/events", json={**sent, "language": f"l{number}"}, headers=headers)
    text = httpx.get(f"{server.url}/metrics").text
    assert 'starloom:completion_characters_total{client="vim",key="",language="python",type="select"} 40.0' in text
    assert 'language="other"' in text
    refused = _post(server, "/v1/events", type="select", text="secret")
    assert refused.status_code == 400
    assert text.count("starloom:completion_events_total{") < 70
