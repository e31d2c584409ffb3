"""The declarative deployment."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import serve_apps
from serve_apps.deployment import Completions, application
from serve_apps.serve import _engine, _replicas
from starloom.errors import UserError


def test_deploy_file_of_the_repository_is_a_valid_config() -> None:
    values = yaml.safe_load((Path(serve_apps.__file__).parent / "deploy.yaml").read_text())
    (described,) = values["applications"]
    assert described["import_path"] == "serve_apps.deployment:application"
    made = application(described["args"])
    assert [one["name"] for one in described["deployments"]] == [made._bound_deployment.name]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"models": []}, "models"),
        ({"models": [{"folder": "x", "engine": {"batsh": 3}}]}, "batsh"),
        ({"models": [{"folder": "x"}], "deadline_seconds": -1}, "deadline_seconds"),
        ({"models": [{"folder": "x", "engine": {"kind": "vllm"}}] * 2}, "memory_share"),
        ({"models": [{"folder": "x"}], "replicas": {"at_least": 0}}, "at_least"),
    ],
)
def test_wrong_config_names_the_field(values: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        application(values)


def test_server_for_everyone_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STARLOOM_API_KEYS", raising=False)
    with pytest.raises(UserError, match="open: true"):
        application({"models": [{"folder": "x"}]})
    for gate in ({"open": True}, {"keys": {"k": "ann"}}, {"keys_file": str(tmp_path / "keys")}):
        assert application({"models": [{"folder": "x"}], "gate": gate})


def test_missing_model_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold a tokenizer"):
        Completions({"models": [{"folder": str(tmp_path)}]})


@pytest.mark.parametrize(
    ("engines", "gpus"),
    [
        ([{}], 0),
        ([{"kind": "vllm"}], 1),
        ([{"kind": "vllm", "tensor_parallel": 4}], 4),
        ([{"kind": "vllm", "gpus": 0}], 0),
        ([{}, {"kind": "vllm", "memory_share": 0.4}, {"kind": "vllm", "memory_share": 0.5, "tensor_parallel": 2}], 2),
    ],
)
def test_replica_asks_for_the_gpus_of_its_engines(engines: list[dict[str, Any]], gpus: int) -> None:
    models = [{"folder": "x", "name": str(number), "engine": engine} for number, engine in enumerate(engines)]
    made = application({"models": models, "gate": {"open": True}, "replicas": {"cpus": 3}})
    assert made._bound_deployment.ray_actor_options == {"num_cpus": 3, "num_gpus": gpus}


def test_engines_and_replicas_are_set_on_the_command_line() -> None:
    assert _engine([], None) == {"weights": "auto"}
    assert _engine(["threads=4", "weights=int8"], None) == {"threads": 4, "weights": "int8"}
    assert _engine(["kind=vllm", "dtype=bfloat16"], None) == {"kind": "vllm", "dtype": "bfloat16"}
    assert _engine(["kind=vllm"], "int8") == {"kind": "vllm", "weights": "int8"}  # which is refused, not dropped
    assert _replicas("3") == {"at_least": 3, "at_most": 3}
    assert _replicas("1..4") == {"at_least": 1, "at_most": 4}
    for wrong in ("0", "4..1", "x", "1..", "-1", "1..x"):
        with pytest.raises(UserError, match="--replicas"):
            _replicas(wrong)
    with pytest.raises(UserError, match="--engine threads"):
        _engine(["threads"], None)
