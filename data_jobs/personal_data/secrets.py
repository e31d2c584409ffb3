"""Keys, tokens and passwords: formats that providers publish, and strings that a name declares to be secret.

A string counts by its name only when it looks random: the classes of its characters, their entropy, no words of
documentation in it. Hashes and identifiers are spared by the words around them.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from data_jobs.personal_data.findings import Finding


@dataclass(frozen=True)
class Format:
    """A published format; a text without `literal` cannot hold one."""

    literal: str
    pattern: re.Pattern[str]


def _format(literal: str, pattern: str) -> Format:
    return Format(literal, re.compile(pattern))


FORMATS = (
    _format("AKIA", r"(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}(?![A-Za-z0-9])"),
    _format("ASIA", r"(?<![A-Za-z0-9])ASIA[0-9A-Z]{16}(?![A-Za-z0-9])"),
    _format("ghp_", r"\bghp_[A-Za-z0-9]{36}\b"),
    _format("gho_", r"\bgho_[A-Za-z0-9]{36}\b"),
    _format("ghs_", r"\bghs_[A-Za-z0-9]{36}\b"),
    _format("ghu_", r"\bghu_[A-Za-z0-9]{36}\b"),
    _format("github_pat_", r"\bgithub_pat_\w{22,}"),
    _format("glpat-", r"\bglpat-[\w-]{20,}"),
    _format("xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _format("hooks.slack.com/", r"hooks\.slack\.com/services/T\w+/B\w+/\w{16,}"),
    _format("_live_", r"\b[srp]k_live_[A-Za-z0-9]{16,}"),
    _format("AIza", r"\bAIza[\w-]{35}(?![\w-])"),
    _format("eyJ", r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    _format("npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    _format("pypi-", r"\bpypi-AgE[\w-]{50,}"),
    _format("sk-", r"\bsk-(?:proj-|ant-\w+-)?[A-Za-z0-9_-]{32,}"),
    _format("hf_", r"\bhf_[A-Za-z0-9]{34}\b"),
    _format("SG.", r"\bSG\.[\w-]{16,32}\.[\w-]{16,64}"),
    _format("AccountKey=", r"(?<=AccountKey=)[A-Za-z0-9+/]{86}=="),
    _format(
        "PRIVATE KEY", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----[^-]{64,}-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----"
    ),
)
_QUOTED = re.compile(r"""(["'`])([A-Za-z0-9+/_.~=\-]{16,200})\1""")
# what stands between a secret's name and its string: name" : " / name = " / name("
_NAMED = re.compile(
    r"(?:key|token|secret|auth|bearer|credential|passw|pwd|access|session|salt|private)"
    r"\w*[\"'\]]*\s*(?:(?::=|=>|->|=|:|,|\()\s*)+(?:[rbuf]|str\()?$",
    re.IGNORECASE,
)
_HASH_WORDS = re.compile(
    r"sha-?\d*|md5|checksum|digest|hash|integrity|commit|revision|uuid|guid|etag|fingerprint|public|pub_?key|keyword"
    r"|keyboard|key_?(?:id|name|code|path|type|size)|token_?(?:type|url|uri|name|endpoint)|\bid\b",
    re.IGNORECASE,
)
_UNQUOTED = re.compile(
    r"(?m)^\s*(?:export\s+)?[A-Z][A-Z0-9_]*(?:KEY|TOKEN|SECRET)\s*[=:]\s*([A-Za-z0-9+/_=\-]{20,200})\s*$"
)
# begins with a literal, which Python's engine searches for fast; the text is in lower case where that keeps places
_VALUE = r"[\"'\]]*\s*(?::=|=>|=|:)\s*(?:\"([^\"\s]{6,64})\"|'([^'\s]{6,64})')"
_PASSWORDS = tuple(re.compile(name + _VALUE, re.ASCII) for name in (r"pass(?:word|wd|phrase)?", r"pwd"))
_PASSWORDS_ANY_CASE = tuple(re.compile(pattern.pattern, re.ASCII | re.IGNORECASE) for pattern in _PASSWORDS)
_URL_PASSWORD = re.compile(r"://[A-Za-z0-9._%+\-]{1,64}:([^\s:@/\"'<>{}$]{4,64})@[A-Za-z0-9]")
_EXAMPLES = re.compile(
    r"example|sample|dummy|fake|placeholder|change_?me|your|my_?(?:key|token|secret|password)|test|xxx|\.\.\.|abcdef"
    r"|123456|qwerty|foobar|default|redacted|insert|todo|null|none|undefined|lorem|deadbeef|password|passwd|secret"
    r"|hunter2|[<>{}$%*]|(.)\1{4}",
    re.IGNORECASE,
)
# words and short numbers between separators: next_token_of_the_stream_1, SERVICE_API_KEY_2024
_WRITTEN = re.compile(r"(?:(?:[a-z]+\d{0,3}|[A-Z]+\d{0,3}|[A-Z][a-z]+|\d{1,4})[_.\-/=]+){2,}(?:[A-Za-z]*\d{0,4})")
_FORMAT_EXAMPLES = re.compile(r"example|placeholder|x{6}|(.)\1{6}|123456789|abcdefgh|your[-_]", re.IGNORECASE)
_CONTEXT = 64


def find_secrets(text: str) -> Iterator[Finding]:
    """Every key, token and password."""
    for known in FORMATS:
        if known.literal in text:
            for found in known.pattern.finditer(text):
                if not _FORMAT_EXAMPLES.search(found[0]):
                    yield Finding(found.start(), found.end(), "key", found[0])
    for found in _QUOTED.finditer(text):
        if is_random(found[2]) and _declared(text, found.start()):
            yield Finding(found.start(2), found.end(2), "key", found[2])
    if "KEY" in text or "TOKEN" in text or "SECRET" in text:
        for found in _UNQUOTED.finditer(text):
            if is_random(found[1]) and not _HASH_WORDS.search(found[0][: found.start(1) - found.start()]):
                yield Finding(found.start(1), found.end(1), "key", found[1])
    yield from _passwords(text)


def is_random(value: str) -> bool:
    """Whether a string looks drawn rather than written: mixed classes, high entropy, no word of an example."""
    digits = sum(character.isdigit() for character in value)
    letters = sum(character.isalpha() for character in value)
    if letters < 2 or _EXAMPLES.search(value):
        return False
    # words change case at their borders, drawn letters at every second place
    changes = sum(a.isupper() != b.isupper() for a, b in pairwise(value) if a.isalpha() and b.isalpha())
    if digits < 2 and changes < len(value) / 4:
        return False
    # random hex of 32 characters has about 3.5 bits a character, random base64 of 20 about 4
    hexadecimal = all(character in "0123456789abcdefABCDEF-" for character in value)
    if entropy(value) < (2.9 if hexadecimal else 3.4):
        return False
    if _WRITTEN.fullmatch(value):
        return False
    # written names have long runs of letters of one case between separators; drawn strings have not
    longest = max(map(len, re.findall(r"[a-z]+|[A-Z]+", value)), default=0)
    return longest < 8 or digits >= len(value) / 5 or changes >= len(value) / 4


def entropy(value: str) -> float:
    """Shannon's, in bits per character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())


def _declared(text: str, start: int) -> bool:
    line = text.rfind("\n", max(0, start - _CONTEXT), start)
    before = text[line + 1 if line >= 0 else max(0, start - _CONTEXT) : start]
    name = _NAMED.search(before)
    return name is not None and not _HASH_WORDS.search(before)


def _passwords(text: str) -> Iterator[Finding]:
    lowered = text.lower() if text.isascii() else text
    for pattern in _PASSWORDS if text.isascii() else _PASSWORDS_ANY_CASE:
        for found in pattern.finditer(lowered):
            start, end = found.span(1 if found[1] is not None else 2)
            value = text[start:end]
            if is_password(value):
                yield Finding(start, end, "password", value)
    if "://" in text and "@" in text:
        for found in _URL_PASSWORD.finditer(text):
            if not _EXAMPLES.search(found[1]) and found[1].lower() not in ("pass", "pwd", "user", "pw"):
                yield Finding(found.start(1), found.end(1), "password", found[1])


def is_password(value: str) -> bool:
    """Whether a quoted string after a password's name is one: two classes of characters, no placeholder or path."""
    classes = sum(
        (
            any(c.islower() for c in value),
            any(c.isupper() for c in value),
            any(c.isdigit() for c in value),
            any(not c.isalnum() for c in value),
        )
    )
    wordlike = re.fullmatch(r"[A-Za-z]+(?:[_.\-/ :][A-Za-z]+)*:?|[A-Z][A-Z0-9_]+", value) is not None
    return classes >= 2 and not wordlike and not _EXAMPLES.search(value)
