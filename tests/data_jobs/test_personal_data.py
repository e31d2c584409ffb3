"""Personal data and secrets: what must be found, what must survive, and how it is replaced."""

import shutil
import subprocess
import tempfile
from pathlib import Path

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


def fresh_key(*options: str) -> str:
    """A private key as ssh-keygen writes it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "key")
        command = ["ssh-keygen", "-q", "-f", str(made), "-C", "me@x", *options]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return made.read_text().strip()


needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@needs_ssh
@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ed25519", "-N", ""),
        ("-t", "ed25519", "-N", "a passphrase"),
        ("-t", "ecdsa", "-N", ""),
        ("-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM"),
        ("-t", "rsa", "-b", "2048", "-N", "a passphrase", "-m", "PEM"),
        ("-t", "rsa", "-b", "2048", "-N", "", "-m", "PKCS8"),
    ],
)
def test_private_key_goes_from_its_first_line_to_its_last_however_it_is_written(options: tuple[str, ...]) -> None:
    key = fresh_key(*options)
    lines = key.split("\n")
    assert redacted(f"cat > key <<'K'\n{key}\nK\nchmod 600 key\n") == "cat > key <<'K'\n<KEY>\nK\nchmod 600 key\n"
    assert redacted(f"```\n{key}\n```\n") == "```\n<KEY>\n```\n"
    assert redacted('KEY = "' + "\\n".join(lines) + '\\n"\n') == 'KEY = "<KEY>\\n"\n'
    concatenated = " +\n    ".join(f'"{line}\\n"' for line in lines)
    assert redacted(f"key = {concatenated};\n") == 'key = "<KEY>\\n";\n'
    assert redacted("key: |\n" + "".join(f"  {line}\n" for line in lines)) == "key: |\n  <KEY>\n"
    assert redacted("".join(f"# {line}\n" for line in lines)) == "# <KEY>\n"
    assert redacted("\n".join(lines[:-1]) + "\n\nx = 1\n") == "<KEY>\n\nx = 1\n"  # without its last line
    assert redacted(key.replace("\n", "\r\n") + "\r\nx\r\n") == "<KEY>\r\nx\r\n"


PGP = "\n".join(
    ["-----BEGIN PGP PRIVATE KEY BLOCK-----", "Version: GnuPG v2", "", *["lQHYBE2rFNoBBADF" * 4] * 6, "=3sQ4"]
)
PUTTY = "\n".join(
    [
        *(
            "PuTTY-User-Key-File-3: ssh-ed25519",
            "Encryption: none",
            "Comment: me",
            "Public-Lines: 2",
            "A" * 64,
            "B" * 12,
        ),
        *("Private-Lines: 1", "AAAAIJm0aZ3XzYkq8r3xE5dJYk2cVZ0u9w7bQm1n", "Private-MAC: 0123abcd"),
    ]
)


def test_keys_of_pgp_putty_and_age_go_whole() -> None:
    block = PGP + "\n-----END PGP PRIVATE KEY BLOCK-----"
    assert redacted(f"a\n{block}\nb\n") == "a\n<KEY>\nb\n"
    assert redacted(f"a\n{PUTTY}\nb\n") == "a\n<KEY>\nb\n"
    assert redacted("AGE-SECRET-KEY-1" + "Q" * 58 + "\n") == "<KEY>\n"


@pytest.mark.parametrize(
    "text",
    [
        'BEGIN = "-----BEGIN RSA PRIVATE KEY-----"\nEND = "-----END RSA PRIVATE KEY-----"\n',
        " * -----BEGIN DSA PRIVATE KEY-----\n * -----BEGIN DSA PUBLIC KEY-----\n * -----BEGIN DSA PARAMETERS-----\n",
        "if data.match(/-----BEGIN EC PRIVATE KEY-----/)\n  return OpenSSLECKeyType\nelsif other\n",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n",
        "-----BEGIN CERTIFICATE-----\n" + "MIIDdzCCAl+gAwIBAgIE\n" * 9 + "-----END CERTIFICATE-----\n",
    ],
)
def test_lines_that_only_speak_of_keys_stay(text: str) -> None:
    assert redact(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "aws_secret_access_key = wJ3lrXUtnFEMI/K7MDENG/bPxRfiCYz1p9QzLk8v\n",
            "wJ3lrXUtnFEMI/K7MDENG/bPxRfiCYz1p9QzLk8v",
        ),
        ("  api-key: 9f8e7d6c5b4a39281706f5e4d3c2b1a0\n", "9f8e7d6c5b4a39281706f5e4d3c2b1a0"),
        ("export GITHUB_TOKEN=k7Jq2mXv9RtLw4Nz8PbYc3Ds\n", "k7Jq2mXv9RtLw4Nz8PbYc3Ds"),
        ("service.client-secret=Zk3vQ9xLmP2rT8wYn5bC7dFh  # prod\n", "Zk3vQ9xLmP2rT8wYn5bC7dFh"),
        ("curl -H 'Authorization: Bearer q8Zt3LmXv7RkW2NpYb9JcD4sHf6'\n", "q8Zt3LmXv7RkW2NpYb9JcD4sHf6"),
        ("const t = 'ghr_" + "a1B2c3D4e5F6" * 3 + "'\n", "ghr_" + "a1B2c3D4e5F6" * 3),
        ("bot = '712345678:AAHk3vQ9xLmP2rT8wYn5bC7dFhZq1jXs0Ku'\n", "712345678:AAHk3vQ9xLmP2rT8wYn5bC7dFhZq1jXs0Ku"),
        ('clientSecret: "Zk3vQ9xLmP2rT8wYn5bC7dFh",\n', "Zk3vQ9xLmP2rT8wYn5bC7dFh"),
    ],
)
def test_secret_goes_whole_in_every_notation(text: str, value: str) -> None:
    assert [finding.value for finding in find_all(text)] == [value]


@pytest.mark.parametrize(
    "text",
    [
        'KEY_USAGE = ObjectIdentifier("2.5.29.15")\nED25519 = "1.3.101.112"\n',
        'NAME = {"password": "Contraseña", "token": "Jeton"}\nlabels.password = "Passwort:"\n',
        '"integrity": "sha512-9f8e7d6c5b4a39281706f5e4d3c2b1a0Zk3vQ9xLmP2rT8wYn5bC7dFh=="\n',
        'model_token = "gpt-4-turbo-2024-04-09-preview"\ntokenizer = "meta-llama/Llama-3.1-70B-Instruct"\n',
        'secret_path = "config/production/credentials/v2/main.yml"\n',
        'next_token = "Zk3vQ9xLmP2rT8wYn5bC7dFh"\nlock_token = "527c5358-2a1a-4b9e-b1b9-7293b0ddff42"\n',
        'keyword = "Zk3vQ9xLmP2rT8wYn5bC7dFh"\ncache_key = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"\n',
        '"adminPassword": "[parameters(\'publicKey\')]"\npassword = "{{ vault_pw1 }}"\npassword: "config.db.pw2"\n',
        "url = 'http://user:t3st@example.com/'\nurl = 'http://a:s3cr3t@db.internal/'\n",
        "x[2000::3]\ny = z[2001:3000:2]\n3.2.1.4 Heading of a section\n# 11.4.2.19 Another one\n",
        "cidr = '11.0.0.0/16'\nblock = '2620:4f:8000::/48'\nnetwork = '130.137.249.0/24'\n",
        "ciphers = ['aes128-gcm@openssh.com', 'curve25519-sha256@libssh.org']\nreq('keepalive@golang.org')\n",
        "rsync -a build/ deploy@web.acme.io:/srv/www\nscp x root@web1.acme.io:~/\n",
        "return@run.map { this@Outer.name }\nw = a@b.dot(c)\n",
    ],
)
def test_what_real_code_has_and_nobody_need_hide_stays(text: str) -> None:
    assert find_all(text) == []


@pytest.mark.parametrize(
    "address",
    [
        "josé.garcía@correo-central.es",
        "anna@acme.photography",
        "li@mail-relay.xn--p1ai",
        "иван@почта-центр.рф",
        "o'neil@corp-mail.ie",
        "x@sub.domain-7.co.uk",
    ],
)
def test_mail_of_every_public_suffix_goes_whole(address: str) -> None:
    for text in (f"# by <{address}>\n", f"author = '{address}'\n", f"{address}, "):
        assert [finding.value for finding in find_all(text)] == [address]
    assert [finding.value for finding in find_all("请联系anna@acme.photography谢谢\n")] == ["anna@acme.photography"]
    assert find_all("a@b.nosuchsuffix icon@2x.png x@host.local\n") == []


HOSTILE = {
    "names": "a" * 1000,
    "names of secrets": "api_key_" * 125,
    "separators": "a_b-c.d" * 143,
    "equal signs": "token = " * 125,
    "quotes": "'\"`" * 333,
    "at": "@" * 1000,
    "domains": "a.b.c.d.e" * 111,
    "mail": "a@b." * 250,
    "dots": "1." * 500,
    "colons": "2001:" * 200,
    "keys begin": "-----BEGIN RSA PRIVATE KEY-----\n" * 32,
    "keys half": "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n" * 21,
    "putty": "PuTTY-User-Key-File-2: x\n" * 40,
    "formats": "sk-ghp_eyJ-AKIA" * 67,
    "jwt": "eyJ-" * 250,
    "base64": "QUJD" * 250,
    "hex": "0x1f,"  * 200,
    "spaces": " " * 1000,
    "lines": "\n" * 1000,
    "password": "password=\"" * 100,
    "urls": "://a:b" * 167,
    "capitals": "BEGIN " * 167,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(60)  # what is quadratic takes minutes a megabyte
@pytest.mark.parametrize("piece", HOSTILE.values(), ids=list(HOSTILE))
def test_megabyte_of_hostile_text_is_no_end(piece: str) -> None:
    find_all(piece * (1_000_000 // len(piece)))


def test_unknown_detector_is_a_user_error() -> None:
    with pytest.raises(UserError, match="'faces' is not one of emails, addresses, secrets"):
        load_detectors(["faces"])
