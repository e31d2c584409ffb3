"""Configs: unknown keys, one-line errors, what enters the fingerprint."""

import pytest

from starloom.artifact import fingerprint_of
from starloom.config import Config, parse_value, read_toml, runtime, set_key, to_toml, validate
from starloom.errors import UserError


class Inner(Config):
    threshold: float = 0.7


class Outer(Config):
    name: str
    inner: Inner = Inner()
    workers: int = runtime(2, ge=1)


def test_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match=r"job\.toml: unknown key 'inner\.treshold'; did you mean 'threshold'\?"):
        validate(Outer, {"name": "x", "inner": {"treshold": 0.5}}, where="job.toml")


def test_wrong_value_is_told_in_one_line_with_key_and_value() -> None:
    with pytest.raises(UserError) as error:
        validate(Outer, {"name": "x", "workers": 0}, where="job.toml")
    assert str(error.value) == "job.toml: workers = 0: Input should be greater than or equal to 1"


def test_missing_key_is_named() -> None:
    with pytest.raises(UserError, match="the key 'name' is missing"):
        validate(Outer, {}, where="job.toml")


class Careless(Config):
    seconds: float = 0  # an int, as people write it


def test_a_default_is_in_the_fingerprint_what_it_is_after_a_job_file(tmp_path) -> None:
    default = Careless()
    (tmp_path / "job.toml").write_text(to_toml(default.model_dump(mode="json")))
    assert fingerprint_of(Careless(**read_toml(tmp_path / "job.toml")).identity()) == fingerprint_of(default.identity())


def test_runtime_fields_do_not_enter_the_identity() -> None:
    assert Outer(name="x", workers=2).identity() == Outer(name="x", workers=8).identity()
    assert Outer(name="x").identity() != Outer(name="x", inner=Inner(threshold=0.8)).identity()
    assert "workers" not in Outer(name="x").identity()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ("python-stdlib", "python-stdlib"),
        ('"a b"', "a b"),
    ],
)
def test_override_values_are_toml_where_they_parse(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_override_reaches_nested_keys_and_refuses_to_go_through_values() -> None:
    settings: dict[str, object] = {"a": {"b": 1}}
    set_key(settings, "a.c.d", 2)
    assert settings == {"a": {"b": 1, "c": {"d": 2}}}
    with pytest.raises(UserError, match="is a value, not a table"):
        set_key(settings, "a.b.c", 1)


def test_toml_written_reads_back(tmp_path) -> None:
    settings = {
        "text": 'quote " slash \\ newline \n bell \x07 ü',
        "number": 3e-4,
        "flag": False,
        "list": [{"kind": "folder", "path": "/a b"}, {"kind": "git"}],
        "table": {"odd key": [1, 2.5], "nested": {"x": True}},
    }
    path = tmp_path / "x.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    assert read_toml(path) == settings


def test_broken_toml_and_missing_file_are_one_line(tmp_path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(UserError, match="not valid TOML"):
        read_toml(broken)
    with pytest.raises(UserError, match="no such file"):
        read_toml(tmp_path / "absent.toml")
