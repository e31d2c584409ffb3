"""The declarative deployment."""

from pathlib import Path

import pytest
import yaml

import serve_apps
from serve_apps.deployment import Completions, application
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
