"""What comes before the model: browsers of other sites, bodies that never end, clients with habits of their own."""

import asyncio
import json
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from peft import LoraConfig

from serve_apps.api import keys
from serve_apps.api.gate import GateConfig
from serve_apps.api.keys import check_reach
from serve_apps.api.service import independent
from serve_apps.engine import engine
from serve_apps.engine.request import Sampling
from starloom.config import validate
from starloom.errors import UserError
from starloom.model.adapter import base_folder
from tests.patience import PATIENCE
from tests.serve_apps.api.conftest import Running, Serve

ASK = {"prompt": "def f", "max_tokens": 4, "temperature": 0}
PAGE, OTHER = "https://code.team.example", "https://elsewhere.example"


def test_a_browser_asks_first_without_a_key_and_then_reads_answers_and_refusals(serve: Serve) -> None:
    server = serve(GateConfig(keys={"k": "ann"}, allow_origins=(PAGE,)))
    url = f"{server.url}/v1/completions"
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "authorization,content-type"
    first = httpx.options(url, headers=asks)
    assert first.status_code == 200
    assert first.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in first.headers["access-control-allow-headers"].lower()
    assert httpx.options(url, headers={**asks, "Origin": OTHER}).status_code == 400
    refused = httpx.post(url, json=ASK, headers={"Origin": PAGE})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
    answer = httpx.post(url, json=ASK, headers={"Origin": PAGE, "X-API-Key": "k"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "access-control-allow-origin" not in httpx.post(url, json=ASK, headers={"Origin": OTHER}).headers


def test_without_the_setting_no_other_site_is_let_in(server: Running) -> None:
    answer = httpx.post(f"{server.url}/v1/completions", json=ASK, headers={"Origin": PAGE})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["code.team.example", "https://", "https://a.example/path", "", "null"])
def test_an_origin_that_is_none_is_told(origin: str) -> None:
    with pytest.raises(UserError, match="is no origin; write scheme://host"):
        validate(GateConfig, {"allow_origins": [origin]}, where="serving")


def test_half_sent_requests_hold_nobody_up_and_are_ended(serve: Serve) -> None:
    server = serve(GateConfig(body_seconds=1.0))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
    held = []
    for _ in range(100):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        connection.sendall(head)
        held.append(connection)
    assert httpx.get(f"{server.url}/health", timeout=PATIENCE).status_code == 200
    assert httpx.post(f"{server.url}/v1/completions", json=ASK, timeout=PATIENCE).status_code == 200
    for connection in held:
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        connection.close()


def test_ollamas_own_curl_names_no_type_and_pages_of_others_get_nothing_by_it(server: Running) -> None:
    body = json.dumps({"model": "any", "prompt": "def f", "stream": False, "options": {"num_predict": 3}}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for headers in (form, {}):
        answer = httpx.post(f"{server.url}/api/generate", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["done"]
    assert httpx.post(f"{server.url}/api/generate", content=body, headers={**form, "Origin": OTHER}).status_code == 400
    assert httpx.post(f"{server.url}/v1/completions", content=body, headers=form).status_code == 400


@pytest.mark.parametrize("name", ["tgi", "dummy", "gpt-4o", "tiny:latest"])
def test_where_one_model_is_served_any_name_means_it(server: Running, name: str) -> None:
    answer = httpx.post(f"{server.url}/v1/completions", json={**ASK, "model": name})
    assert (answer.status_code, answer.json()["model"]) == (200, "tiny")


def test_a_refused_request_of_many_prompts_computes_nothing(serve: Serve) -> None:
    asyncio.run(refused(serve(batch=1, queue=4)))


async def refused(server: Running) -> None:
    before = server.engine.counters.cancelled_requests
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        long = {"prompt": "def f", "max_tokens": 500, "temperature": 0, "ignore_eos": True}
        hog = asyncio.create_task(client.post(f"{server.url}/v1/completions", json=long))
        while not server.engine.load.running:
            await asyncio.sleep(0.01)
        for stream in (False, True):
            many = {**long, "prompt": ["def g"] * 16, "stream": stream}
            assert (await client.post(f"{server.url}/v1/completions", json=many)).status_code == 429
            while server.engine.load.waiting:
                await asyncio.sleep(0.01)
        assert (await hog).json()["usage"]["completion_tokens"] == 500
    assert server.engine.load.running == 0
    assert server.engine.counters.cancelled_requests > before


def test_choices_of_neighbouring_seeds_share_no_draws() -> None:
    seeds = [one.seed for base in range(200) for one in independent(Sampling(max_tokens=1, seed=base), 16)]
    assert len(set(seeds)) == len(seeds)
    assert [one.seed for one in independent(Sampling(max_tokens=1, seed=7), 1)] == [7]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    check_reach(host, meant=False, keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "code.team.example", ""])
def test_other_machines_need_a_key_or_a_word(host: str) -> None:
    with pytest.raises(UserError, match="give --api-keys FILE, or --open"):
        check_reach(host, meant=False, keys=False)
    check_reach(host, meant=True, keys=False)
    check_reach(host, meant=False, keys=True)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(
            ("init_lora_weights", how)
            for how in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "new")
        ),
        *(("use_dora", True), ("lora_bias", True), ("rank_pattern", {"c_attn": 2}), ("modules_to_save", ["lm_head"])),
        *(("alora_invocation_tokens", [1, 2]), ("trainable_token_indices", [3]), ("something_new", {"a": 1})),
    ],
)
def test_adapters_whose_settings_are_not_understood_are_refused(
    tiny: Path, tmp_path: Path, setting: str, value: object
) -> None:
    LoraConfig(r=2, target_modules=["c_attn"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    written = {**json.loads(path.read_text()), "base_model_name_or_path": str(tiny)}
    path.write_text(json.dumps(written))
    assert base_folder(tmp_path) == tiny  # as peft writes it
    path.write_text(json.dumps({**written, setting: value}))
    with pytest.raises(UserError, match=f"{setting} = .* cannot be served"):
        base_folder(tmp_path)


def test_keys_are_read_again_and_a_file_that_is_gone_changes_nothing(
    serve: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)
    path = tmp_path / "keys"
    path.write_text("ann:first\n")
    server = serve(GateConfig(keys_file=str(path)))

    def status(key: str) -> int:
        return httpx.get(f"{server.url}/v1/models", headers={"X-Api-Key": key}).status_code

    assert [status("first"), status("second")] == [200, 401]
    path.write_text("ann:second\nbob:third\n")
    assert [status("first"), status("second"), status("third")] == [401, 200, 200]
    path.write_text("no key")
    assert [status("second"), status("x")] == [200, 401]
    path.unlink()
    assert status("second") == 200
    path.write_text("eve:fourth")
    assert [status("second"), status("fourth")] == [401, 200]
    assert "written name:key" in capfd.readouterr().out
    with pytest.raises(UserError, match="No such file"):
        keys.Keys({}, str(tmp_path / "none"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_is_that_of_the_engine(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    monkeypatch.setattr(server.engine, "_drop", lambda: 1 / 0)  # a fault beside the steps ends the thread
    lost = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 2})
    assert lost.status_code == 500
    told = httpx.get(f"{server.url}/health")
    assert (told.status_code, told.json()["error"]) == (503, "tiny: the engine's thread has died")
    again = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 2})
    assert (again.status_code, again.headers["Retry-After"]) == (503, "2")


def test_engine_whose_step_does_not_end_is_not_healthy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, over = serve(), threading.Event()
    monkeypatch.setattr(engine, "STUCK_SECONDS", 0.2)
    assert server.engine.failure == ""
    time.sleep(0.4)  # to wait for work is no failure
    assert server.engine.failure == ""
    monkeypatch.setattr(server.engine, "_step", over.wait)
    with suppress(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}, timeout=1)
    assert "no step has ended for" in httpx.get(f"{server.url}/health").json()["error"]
    monkeypatch.undo()
    over.set()
