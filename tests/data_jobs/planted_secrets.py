"""Values of every kind to plant in code, and look-alikes that must survive; all drawn from a seed."""

import base64
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_jobs.personal_data.findings import Finding

ALNUM = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Planted:
    """A line of code and the value in it; `kind` is None for a look-alike."""

    line: str
    value: str
    kind: str | None


@dataclass(frozen=True)
class Score:
    """Found planted values over planted ones, and over everything found that was planted or is a look-alike."""

    recall: float
    precision: float


def _chars(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choices(alphabet, k=count))


def _public(rng: random.Random) -> str:
    while True:
        first = rng.randint(11, 223)
        if first not in (100, 127, 169, 172, 192, 198, 203):
            return f"{first}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"


def _public6(rng: random.Random) -> str:
    groups = [f"2a{rng.randint(0, 255):02x}"] + [f"{rng.randint(1, 0xFFFF):x}" for _ in range(7)]
    return ":".join(groups) if rng.random() < 0.5 else ":".join(groups[:3]) + "::" + groups[7]


def _email(rng: random.Random) -> str:
    first = rng.choice(["maria", "j.smith", "li_wei", "anna-k", "oleg77", "p.van.dam", "x+lists"])
    domain = rng.choice(["corp", "mail-relay", "uni.informatik", "acme", "northwind"]) + str(rng.randint(1, 99))
    return (
        f"{first}{rng.randint(1, 999)}@{domain}.{rng.choice(['com', 'org', 'de', 'co.uk', 'io', 'edu', 'fr', 'net'])}"
    )


def _jwt(rng: random.Random) -> str:
    parts = [base64.urlsafe_b64encode(rng.randbytes(n)).decode().rstrip("=") for n in (24, 48, 32)]
    return f"eyJ{parts[0]}.eyJ{parts[1]}.{parts[2]}"


KEYS: Sequence[Callable[[random.Random], tuple[str, str]]] = (
    lambda rng: ("aws_access_key_id = {!r}", "AKIA" + _chars(rng, string.ascii_uppercase + "234567", 16)),
    lambda rng: ("aws_secret_access_key = {!r}", _chars(rng, ALNUM + "/+", 40)),
    lambda rng: ("GITHUB_TOKEN = {!r}", "ghp_" + _chars(rng, ALNUM, 36)),
    lambda rng: ("headers = dict(Authorization='Bearer {}')", _jwt(rng)),
    lambda rng: ("client = Client(api_key={!r})", _chars(rng, string.hexdigits[:16], 32)),
    lambda rng: ("slack = {!r}", "xoxb-" + _chars(rng, string.digits, 12) + "-" + _chars(rng, ALNUM, 24)),
    lambda rng: ("STRIPE = {!r}", "sk_live_" + _chars(rng, ALNUM, 24)),
    lambda rng: ("maps.load({!r})", "AIza" + _chars(rng, ALNUM + "-_", 34) + "k"),
    lambda rng: ('"client_secret": "{}",', _chars(rng, ALNUM + "-_", 28)),
    lambda rng: ("SECRET_KEY = {!r}", _chars(rng, ALNUM, 50)),
    lambda rng: ("npm = {!r}", "npm_" + _chars(rng, ALNUM, 36)),
    lambda rng: ("access_token: {!r},", _chars(rng, ALNUM, 32)),
)
LOOK_ALIKES: Sequence[Callable[[random.Random], tuple[str, str]]] = (
    lambda rng: ("aws_access_key_id = {!r}", "AKIAIOSFODNN7EXAMPLE"),
    lambda rng: ("sha256 = {!r}", _chars(rng, string.hexdigits[:16], 64)),
    lambda rng: ("commit = {!r}", _chars(rng, string.hexdigits[:16], 40)),
    lambda rng: ("md5_token = {!r}", _chars(rng, string.hexdigits[:16], 32)),
    lambda rng: ("session_token = {!r}", "your-access-token-here-1234"),
    lambda rng: ("token = {!r}", "authentication_credentials_provider_v2_22"),
    lambda rng: ("api_key = os.environ[{!r}]", "SERVICE_API_KEY_2024_V1"),
    lambda rng: ("contact = {!r}", f"user{rng.randint(1, 99)}@example.com"),
    lambda rng: ("url = {!r}", "git@github.com:owner/repo.git"),
    lambda rng: ("icon = {!r}", f"logo{rng.randint(1, 99)}@2x.png"),
    lambda rng: ("dep = {!r}", f"@scope/pkg@{rng.randint(1, 9)}.2.0"),
    lambda rng: ("    return self.w @ other.transposed", "self.w @ other.transposed"),
    lambda rng: ("@app.route", "@app.route"),
    lambda rng: ("host = {!r}", f"192.168.{rng.randint(0, 255)}.{rng.randint(1, 254)}"),
    lambda rng: ("host = {!r}", f"10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.1"),
    lambda rng: ("documented = {!r}", f"203.0.113.{rng.randint(1, 254)}"),
    lambda rng: ("documented = {!r}", f"2001:db8::{rng.randint(1, 9999):x}"),
    lambda rng: ("resolver = {!r}", "8.8.8.8"),
    lambda rng: ("version = {!r}", ".".join(str(rng.randint(11, 99)) for _ in range(4))),
    lambda rng: ("mask = {!r}", "255.255.255.0"),
    lambda rng: ("oid = {!r}", f"1.3.6.1.4.1.{rng.randint(1, 99999)}.1"),
    lambda rng: ("started = {!r}", f"2023:10:{rng.randint(10, 28)}:11:12:13"),
    lambda rng: ("password = {!r}", "your_password_here1"),
    lambda rng: ("password = get_password('{}')", "vault/database-main"),
)  # fmt: skip


def planted(seed: int, count: int) -> list[Planted]:
    """`count` values of each kind and as many look-alikes as keys."""
    rng = random.Random(seed)
    made = []
    for n in range(count):
        pattern, value = KEYS[n % len(KEYS)](rng)
        made.append(Planted(pattern.format(value), value, "key"))
        email = _email(rng)
        made.append(
            Planted(rng.choice(["# by <{}>", "author = '{}'", "mailto:{}", "{},"]).format(email), email, "email")
        )
        address = _public(rng) if n % 3 else _public6(rng)
        line = rng.choice(["HOST = '{}'", "connect('{}', 80)", "# reached {} from here"])
        made.append(Planted(line.format(address), address, "address"))
        pattern, value = LOOK_ALIKES[n % len(LOOK_ALIKES)](rng)
        made.append(Planted(pattern.format(value), value, None))
    rng.shuffle(made)
    return made


def score(kind: str, values: Sequence[Planted], found: Callable[[str], Sequence[Finding]]) -> Score:
    """Recall and precision of one kind; a found value that is not the planted one, to the character, is a miss."""
    wanted = hits = false = 0
    for entry in values:
        matches = [finding for finding in found(entry.line) if finding.kind == kind]
        right = entry.kind == kind and any(finding.value == entry.value for finding in matches)
        wanted += entry.kind == kind
        hits += right
        false += len(matches) - right
    return Score(hits / wanted, hits / max(1, hits + false))
