"""The evaluation service on Ray Serve: progress, results, killed actors, a restarted service, cancelling."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from serve_apps.api.gate import GateConfig
from serve_apps.evaluation.allowed import Allowed, NamedEndpoint
from serve_apps.evaluation.benchmarks import benchmark
from serve_apps.evaluation.service import ServiceConfig
from serve_apps.evaluation.store import DONE, RUNNING, EvaluationRequest, Store
from serve_apps.evaluations import evaluating
from serve_apps.sandbox import pool
from serve_apps.sandbox.inside.usage import descendants
from serve_apps.sandbox.jobs import Program
from serve_apps.sandbox.pool import run_on_actors
from serve_apps.sandbox.sandbox import Limits
from starloom.artifact import find
from starloom.errors import RunError
from starloom.verify import damages
from tests.patience import PATIENCE
from tests.serve_apps.evaluation.stand_in import StandIn, stand_in

pytestmark = pytest.mark.slow

CANONICAL = {task.prompt: str(task.record["canonical_solution"]) for task in benchmark("humaneval").tasks(None)}


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    def answer(body: dict[str, Any]) -> str:
        if body["max_tokens"] == 33:
            time.sleep(0.2)
        return CANONICAL.get(body["prompt"], "    pass\n")

    with stand_in(answer) as opened:
        yield opened


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, model: StandIn) -> Path:
    """A store in which the service finds a run that an earlier one had begun."""
    folder = tmp_path_factory.mktemp("evaluations")
    begun = Store(folder).create(
        EvaluationRequest(benchmark="humaneval", url="stand-in", tasks=6, n=1, about={"parameters": 15_500_000_000})
    )
    begun.set_state(RUNNING, total=6)
    (begun.folder / "samples.jsonl").write_text(
        '{"task": "HumanEval/0", "number": 0, "completion": "    return \\"kept\\"\\n", "refused": ""}\n'
        '{"task": "HumanEval/1", "num'
    )
    (folder / "begun").write_text(begun.id)
    return folder


@pytest.fixture(scope="module")
def client(ray_cluster: str, root: Path, model: StandIn) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "key").write_text("key-of-the-model\n")
    config = ServiceConfig(
        root=str(root),
        default_url=model.url,
        key="own-key",
        gate=GateConfig(keys={"key-of-ann": "ann"}),
        allowed=Allowed(
            urls={"stand-in": NamedEndpoint(url=model.url, key_file=str(root / "key"))}, data={"gone": "/nowhere.jsonl"}
        ),
    )
    with evaluating(config, port=port) as url:
        keys = {"Authorization": "Bearer key-of-ann"}
        with httpx.Client(base_url=url, timeout=PATIENCE, follow_redirects=True, headers=keys) as opened:
            yield opened


def ended(client: httpx.Client, name: str) -> dict[str, Any]:
    """The run once it has ended."""
    return wait_for(client, name, lambda run: run["state"] in ("done", "failed", "cancelled"))


def wait_for(client: httpx.Client, name: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        run: dict[str, Any] = client.get(f"/v1/evaluations/{name}").json()
        if reached(run):
            return run
        assert time.monotonic() < deadline, run
        time.sleep(0.1)


def test_begun_run_goes_on_where_it_was(client: httpx.Client, root: Path) -> None:
    name = (root / "begun").read_text()
    run = ended(client, name)
    assert run["state"] == DONE, run
    assert run["progress"] == {"samples": 6, "verdicts": 6, "total": 6}
    # the sample that was there is kept (and wrong), the torn line was drawn again, nothing is counted twice
    assert run["result"]["statuses"] == {"failed": 1, "passed": 5}
    lines = (root / name / "samples.jsonl").read_text().splitlines()
    assert len({(row["task"], row["number"]) for row in map(json.loads, lines)}) == len(lines) == 6
    artifact = find(str(root), run["result"]["artifact"])
    assert damages(artifact.folder, artifact.manifest) == ()
    assert (artifact.kind, artifact.manifest.counts.rows_in, artifact.manifest.counts.rows_out) == ("evaluation", 6, 5)
    rows = [json.loads(line) for line in artifact.read_text("samples.jsonl").splitlines()]
    assert [row["task_id"] for row in rows] == [f"HumanEval/{n}" for n in range(6)]
    assert artifact.read_json("results.json")["statuses"] == {"failed": 1, "passed": 5}


def test_evaluation_is_taken_carried_out_and_listed(client: httpx.Client, model: StandIn) -> None:
    asked = {"benchmark": "humaneval", "tasks": 8, "n": 2, "throughput": True}
    taken = client.post("/v1/evaluations", json=asked)
    assert taken.status_code == 202
    run = ended(client, taken.json()["id"])
    assert run["state"] == DONE, run
    assert run["result"]["pass_at_k"] == {"1": 1.0}
    assert run["result"]["model"] == "stand-in"
    assert run["result"]["settings"]["max_tokens"] == 512
    assert run["id"] in [entry["id"] for entry in client.get("/v1/evaluations").json()["data"]]
    rows = client.get(f"/v1/evaluations/{run['id']}/samples").json()["data"]
    assert len(rows) == 16
    assert all(row["passed"] for row in rows)
    page = client.get("/leaderboard/")
    assert page.status_code == 200
    assert "stand-in" in page.text
    assert "15.5B" in page.text
    assert run["id"] in page.text
    assert "HumanEval/7" in client.get(f"/leaderboard/runs/{run['id']}").text
    assert client.get("/leaderboard/export.json").json()["models"][0]["scores"]["humaneval"]["score"] == 1.0
    assert client.get("/leaderboard/export.csv").text.startswith("model,win_rate,average,parameters")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"benchmark": "humanevil"}, "unknown"),
        ({"benchmark": "humaneval", "temprature": 1}, "did you mean 'temperature'"),
        ({"benchmark": "os:path"}, "not over HTTP"),
        (
            {"benchmark": "humaneval", "url": "http://169.254.169.254/"},
            "no name that this server knows; it knows stand-in",
        ),
        ({"benchmark": "mbpp", "data": "/etc/passwd"}, "no name that this server knows; it knows gone"),
        ({"benchmark": "humaneval", "corpus": "/"}, "its operator has named none"),
        ({"benchmark": "humaneval", "generations": "/etc/passwd"}, "not over HTTP"),
        ({}, "'benchmark' is missing"),
        ([], "no JSON object"),
    ],
)
def test_wrong_requests_are_told(client: httpx.Client, body: Any, complaint: str) -> None:
    answer = client.post("/v1/evaluations", json=body)
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]["message"]


PATHS = [
    "/v1/evaluations/",
    "/v1/evaluations/eval-none",
    "/leaderboard/",
    "/leaderboard/export.csv",
    "/leaderboard/runs/x",
]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_told_without_a_key(client: httpx.Client, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}):
        answer = httpx.get(f"{client.base_url}{path}", headers=headers, follow_redirects=True)
        assert answer.status_code == 401, answer.text
        scheme = "Basic" if path.startswith("/leaderboard") else "Bearer"
        assert answer.headers["www-authenticate"].startswith(scheme)
    assert httpx.post(f"{client.base_url}/v1/evaluations/", json={"benchmark": "humaneval"}).status_code == 401
    assert httpx.get(f"{client.base_url}{path}", auth=("anyone", "key-of-ann")).status_code != 401


def test_body_that_a_form_could_send_is_refused(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/evaluations/", content=b'{"benchmark": "humaneval"}', headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


def test_each_model_is_asked_with_its_own_key(client: httpx.Client, model: StandIn) -> None:
    for asked, key in (({}, "Bearer own-key"), ({"url": "stand-in"}, "Bearer key-of-the-model")):
        model.keys.clear()
        body = {"benchmark": "humaneval", "tasks": 1, "n": 1, **asked}
        run = ended(client, client.post("/v1/evaluations", json=body).json()["id"])
        assert run["state"] == DONE, run
        assert set(model.keys) == {key}
        assert run["result"]["endpoint"] == asked.get("url", "the served model")
        assert "key-of" not in json.dumps(run)


def test_unknown_run_is_not_found(client: httpx.Client) -> None:
    assert client.get("/v1/evaluations/eval-none").status_code == 404
    assert client.get("/leaderboard/runs/eval-none").status_code == 404


def test_failing_evaluation_says_why(client: httpx.Client) -> None:
    asked = {"benchmark": "mbpp", "data": "gone", "n": 1}
    run = ended(client, client.post("/v1/evaluations", json=asked).json()["id"])
    assert run["state"] == "failed"
    assert "/nowhere.jsonl" in run["error"]
    assert run["result"] is None


def test_evaluation_can_be_cancelled(client: httpx.Client) -> None:
    asked = {"benchmark": "humaneval", "n": 20, "max_tokens": 33}
    name = client.post("/v1/evaluations", json=asked).json()["id"]
    wait_for(client, name, lambda run: run["progress"] is not None and run["progress"]["samples"] > 0)
    assert client.delete(f"/v1/evaluations/{name}").status_code == 202
    run = ended(client, name)
    assert run["state"] == "cancelled"
    assert 0 < run["progress"]["samples"] < 164 * 20


def test_killed_actors_programs_run_again_and_count_once(ray_cluster: str) -> None:
    source = "import time\ntime.sleep(0.15)\nprint({})"
    jobs = [Program("python", source.format(n)) for n in range(12)]
    counted: list[int] = []
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + PATIENCE
        while not counted and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in descendants(os.getpid()):
            try:
                words = Path(f"/proc/{process}/cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(b"ray::Executor") and not killed:
                killed.append(process)
                os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    verdicts = run_on_actors(jobs, Limits(), actors=1, finished=lambda number, verdict: counted.append(number))
    killer.join()
    assert killed
    assert [verdict.stdout for verdict in verdicts] == [f"{n}\n" for n in range(12)]
    assert sorted(counted) == list(range(12))


@ray.remote
class Holder:
    """Holds cores, as a served model does."""

    def here(self) -> bool:
        """Answer once it has them."""
        return True


def test_programs_run_on_the_cores_that_are_free_and_no_others_are_waited_for(ray_cluster: str) -> None:
    cores = int(ray.cluster_resources()["CPU"])
    free = int(ray.available_resources().get("CPU", 0))
    holder = Holder.options(num_cpus=free - 1).remote() if free > 1 else None  # type: ignore[attr-defined]
    try:
        assert holder is None or ray.get(holder.here.remote())
        jobs = [Program("python", f"print({n})") for n in range(8 * cores + 1)]
        verdicts = run_on_actors(jobs, Limits())
        assert [verdict.stdout for verdict in verdicts] == [f"{n}\n" for n in range(len(jobs))]
    finally:
        if holder is not None:
            ray.kill(holder)


def test_no_core_at_all_is_told_with_what_to_free(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CORE_SECONDS", 2.0)
    deadline = time.monotonic() + PATIENCE
    while (free := ray.available_resources().get("CPU", 0)) < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    holder = Holder.options(num_cpus=free).remote()  # type: ignore[attr-defined]
    try:
        ray.get(holder.here.remote())
        with pytest.raises(RunError, match=r"no core is free to run programs: .* are held, such as by a served model"):
            run_on_actors([Program("python", "print(1)")], Limits())
    finally:
        ray.kill(holder)
