"""Personal data and secrets: what must be found, what must survive, and how it is replaced."""

import pytest

from data_jobs.corpus.edits import apply_edits
from data_jobs.personal_data.redaction import find_all, load_detectors, redact
from starloom.errors import UserError
from tests.data_jobs.planted_secrets import planted, score


def redacted(text: str) -> str:
    return apply_edits(text, [(edit.start, edit.end, edit.replacement) for edit in redact(text)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Jane <jane.doe+x@corp-mail.co.uk>\n", "# Jane <<EMAIL>>\n"),
        ("AWS = 'AKIA2E4JZXQ6L5P7WM3R'\n", "AWS = '<KEY>'\n"),
        ("password = 'tr0ub4dor&3'\n", "password = '<PASSWORD>'\n"),
        ("url = 'postgres://app:S3cure.pw9@db.internal/x'\n", "url = 'postgres://app:<PASSWORD>@db.internal/x'\n"),
        ("Über Größe: DB_PASSWORD = 'tr0ub4dor&3'\n", "Über Größe: DB_PASSWORD = '<PASSWORD>'\n"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA\n" * 6 + "-----END RSA PRIVATE KEY-----\n",
            "<KEY>\n",
        ),
    ],
)
def test_values_are_replaced_in_place(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com, a@test.invalid, someone@localhost",
        "git clone git@github.com:owner/repo.git",
        "background: url(logo@2x.png)",
        "@decorator.method\ny = a @ b.T",
        "127.0.0.1 10.1.2.3 192.168.1.1 172.16.0.9 0.0.0.0 255.255.255.0 203.0.113.7 8.8.8.8 ::1 fe80::1 2001:db8::2",
        'AssemblyVersion("21.40.2.19")\nversion = 14.2.18.3\nsee section 41.2.18.3\npip install x==21.2.3.4',
        "std::vector<a::b> x; abc::def y; Foo::Bar::baz",
        "sha256 = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'",
        "password = 'your_password_here'\npassword: str = None\npassword = 'password'\npwd = '<secret>'",
        "token = 'next_token_of_the_stream_1_2'",
    ],
)
def test_look_alikes_survive(text: str) -> None:
    assert redact(text) == []


def test_same_value_gets_the_same_replacement_within_a_file() -> None:
    text = redacted("a = '81.2.69.142'\nb = '93.184.216.34'\nc = '81.2.69.142'\n")
    first, second, third = (line.split("'")[1] for line in text.splitlines())
    assert first == third
    assert first != second
    assert redact(text) == []


def test_redaction_of_redacted_text_changes_nothing() -> None:
    text = redacted("\n".join(entry.line for entry in planted(5, 60)))
    assert redacted(text) == text


@pytest.mark.parametrize("kind", ["key", "email", "address"])
def test_planted_values_meet_the_goal_of_recall_and_precision(kind: str) -> None:
    values = planted(11, 600)
    found = score(kind, values, find_all)
    assert found.recall >= 0.98
    assert found.precision >= 0.95


def test_unknown_detector_is_a_user_error() -> None:
    with pytest.raises(UserError, match="'faces' is not one of emails, addresses, secrets"):
        load_detectors(["faces"])
