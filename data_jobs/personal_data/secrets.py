"""Keys, tokens and passwords: formats that providers publish, and strings that a name declares to be secret.

A string counts by its name only when that name means a secret and the string looks drawn, not written: the classes of
its characters, their entropy, no words in it. Hashes, identifiers, object ids, paths and names of models are spared.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from data_jobs.personal_data.findings import Finding
from data_jobs.personal_data.key_blocks import find_key_blocks
from data_jobs.runs import character_class, runs


@dataclass(frozen=True)
class Format:
    """A published format; a text without `literal` cannot hold one."""

    literal: str
    pattern: re.Pattern[str]


def _format(literal: str, pattern: str) -> Format:
    return Format(literal, re.compile(pattern, re.ASCII))


FORMATS = (
    _format("AKIA", r"(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}(?![A-Za-z0-9])"),
    _format("ASIA", r"(?<![A-Za-z0-9])ASIA[0-9A-Z]{16}(?![A-Za-z0-9])"),
    _format("ghp_", r"\bghp_[A-Za-z0-9]{36}\b"),
    _format("gho_", r"\bgho_[A-Za-z0-9]{36}\b"),
    _format("ghs_", r"\bghs_[A-Za-z0-9]{36}\b"),
    _format("ghu_", r"\bghu_[A-Za-z0-9]{36}\b"),
    _format("ghr_", r"\bghr_[A-Za-z0-9]{36,76}\b"),
    _format("github_pat_", r"\bgithub_pat_\w{22,}"),
    _format("glpat-", r"\bglpat-[\w-]{20,}"),
    _format("xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _format("xapp-", r"\bxapp-\d-[A-Z0-9]+-\d+-[a-f0-9]{32,}"),
    _format("hooks.slack.com/", r"hooks\.slack\.com/services/T\w{1,20}/B\w{1,20}/\w{16,}"),
    _format("_live_", r"\b[srp]k_live_[A-Za-z0-9]{16,}"),
    _format("AIza", r"\bAIza[\w-]{35}(?![\w-])"),
    _format("eyJ", r"\beyJ[\w-]{8,1000}\.eyJ[\w-]{8,4000}\.[\w-]{8,1000}"),
    _format("npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    _format("pypi-", r"\bpypi-AgE[\w-]{50,}"),
    _format(
        "sk-",
        r"\bsk-(?:(?:proj|svcacct|admin)-|ant-\w+-|or-v1-)?(?=[\w-]{0,99}\d[\w-]{0,99}\d)"
        r"(?=[\w-]{0,99}[A-Z]|[a-f0-9]{32})[\w-]{32,200}",
    ),
    _format("hf_", r"\bhf_[A-Za-z0-9]{34}\b"),
    _format("SG.", r"\bSG\.[\w-]{16,32}\.[\w-]{16,64}"),
    _format("AccountKey=", r"(?<=AccountKey=)[A-Za-z0-9+/]{86}=="),
    _format(":AA", r"(?<![\w:])\d{8,10}:AA[A-Za-z0-9_-]{33}(?![\w-])"),  # of Telegram's bots
    _format("dop_v1_", r"\bdo[por]_v1_[a-f0-9]{64}\b"),
    _format("shp", r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b"),
    _format("dapi", r"\bdapi[a-f0-9]{32}\b"),
    _format("hvs.", r"\bhvs\.[\w-]{24,}"),
    _format("glsa_", r"\bglsa_[A-Za-z0-9]{32}_[a-f0-9]{8}\b"),
    _format("dckr_pat_", r"\bdckr_pat_[\w-]{27}"),
    _format("lin_api_", r"\blin_api_[A-Za-z0-9]{40}\b"),
    _format("ATATT3", r"\bATATT3[\w=-]{100,}"),
    _format("key-", r"\bkey-[a-f0-9]{32}\b"),
    _format("SK", r"SK(?<![\w/+=-]SK)[a-f0-9]{32}(?![\w/+=-])"),
)
_FORMAT_EXAMPLES = re.compile(r"example|placeholder|x{6}|(.)\1{6}|123456789|abcdefgh|your[-_]", re.IGNORECASE)

# names that mean a secret by their last word: GITHUB_TOKEN, clientSecret, db-password; not token_type, keyword
_SECRETS = frozenset(
    [
        *("secret", "secrets", "token", "tokens", "password", "passwd", "pwd", "passphrase", "credential"),
        *("credentials", "bearer", "authorization", "apikey", "apitoken", "accesstoken", "authtoken", "secretkey"),
        *("accesskey",),
    ]
)
# ... or by their last two: api_key, aws.secret-access-key
_KEYS_OF = frozenset(
    [
        *("api", "access", "secret", "auth", "encryption", "signing", "signature", "master", "client", "consumer"),
        *("app", "application", "service", "account", "storage", "subscription", "deploy", "license", "webhook"),
        *("shared", "hmac", "jwt", "cookie", "session", "private"),
    ]
)
_TAILS = frozenset(["value", "string", "base", "base64", "b64", "raw", "text", "header"])
_NOT_SECRET = frozenset(
    [
        *("sha", "sha1", "sha224", "sha256", "sha384", "sha512", "md5", "checksum", "digest", "hash", "hashed"),
        *("etag", "integrity", "commit", "revision", "uuid", "guid", "id", "oid", "fingerprint", "public", "pub"),
        *("nonce", "csrf", "cursor", "page", "next", "sync", "continuation", "selector", "class", "type", "expected"),
        *("encoded", "change", "lock", "idempotency", "lifecycle", "update", "starting"),  # a service counts by them
    ]
)
_UUID = re.compile(r"[0-9a-z]{7,8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")
# between a secret's name and its string stands: name" : " / name = " / name("
_OPERATOR = re.compile(
    r"([A-Za-z0-9_.\-]{2,64})[\"'`\]]{0,3}\s{0,8}(?:(?::=|=>|->|=|:|,|\()\s{0,8}){1,3}(?:[rbuf]|str\(|bytes\()?$"
)
_QUOTES = frozenset("\"'`")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{16}|[0-9a-f]{32,128}")
_UNQUOTED = re.compile(
    r"(?m)^[ \t]{0,40}(?:export[ \t]+|-[ \t]+|set[ \t]+)?(?P<name>[A-Za-z][A-Za-z0-9_.\-]{1,63})[ \t]{0,8}"
    r"[=:][ \t]{0,8}"
    r"(?P<value>[A-Za-z0-9+/_=\-]{20,200})[ \t]{0,8}(?:[#;][^\n]*)?$"
)
# of the header Authorization: the scheme and what follows it
_SCHEMES = tuple(case(word) for word in ("bearer", "token", "basic") for case in (str.lower, str.title, str.upper))
_CREDENTIALS = re.compile(r"[ \t]{1,4}(?P<value>[A-Za-z0-9+/_.~=\-]{20,400})(?![\w.])")
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
_DIGITS = character_class(string.digits)
_VALUE_CHARACTERS = character_class(string.ascii_letters + string.digits + "+/_=-")
_KEY_CHARACTERS = character_class(string.ascii_letters + string.digits + "+/_=-.~:")
# of a name with separators, such as a model's: gpt-4-turbo-2024-04-09
_PIECE = re.compile(r"[a-z]+\d{0,3}|[A-Z]+\d{0,3}|[A-Z][a-z]+\d{0,3}|\d{1,4}[a-z]?")
_TWO_DIGITS = re.compile(r"\d\D*\d")
_CONTEXT = 80
_SETTING_CHARACTERS = 128  # before its value


def find_secrets(text: str) -> Iterator[Finding]:
    """Every key, token and password."""
    yield from find_key_blocks(text)
    # every key is a long run, and these are a small part of most files: one look saves forty
    long = [text[start:end] for start, end in runs(text, _KEY_CHARACTERS, 16, _KEY_CHARACTERS, 16)]
    together = "\n".join(long)
    for known in FORMATS:
        if known.literal in together:
            for found in known.pattern.finditer(text):
                if not _FORMAT_EXAMPLES.search(found[0]):
                    yield Finding(found.start(), found.end(), "key", found[0])
    if any(map(_TWO_DIGITS.search, long)):  # what looks drawn has two at least
        yield from _declared(text)
    yield from _passwords(text)


def _declared(text: str) -> Iterator[Finding]:
    for start, end in runs(text, _VALUE_CHARACTERS, 16, _DIGITS, 2):
        before, value = text[start - 1 : start], text[start:end]
        if before in _QUOTES and before == text[end : end + 1]:
            sized = 20 <= len(value) <= 200 or _HEX_KEY.fullmatch(value)
            if sized and is_random(value) and _is_named(text, start - 1):
                yield Finding(start, end, "key", value)
        else:
            yield from _unquoted(text, start, end)
    for word in _SCHEMES:
        at = text.find(word)
        while at >= 0:  # quicker than a pattern that may begin with either case of three words
            behind = _CREDENTIALS.match(text, at + len(word))
            if behind and is_random(behind["value"]):
                yield Finding(behind.start("value"), behind.end("value"), "key", behind["value"])
            at = text.find(word, at + len(word))


def _unquoted(text: str, start: int, end: int) -> Iterator[Finding]:
    """The value of a setting, as of ini, YAML, properties and shells, that ends where this run does."""
    line = text.rfind("\n", max(0, start - _SETTING_CHARACTERS), start) + 1
    found = _UNQUOTED.match(text, line) if line or start <= _SETTING_CHARACTERS else None
    if found and found.end("value") == end and is_secret_name(found["name"]) and is_random(found["value"]):
        yield Finding(found.start("value"), found.end("value"), "key", found["value"])


def is_random(value: str) -> bool:
    """Whether a string looks drawn rather than written: mixed classes, high entropy, no word of an example."""
    plain = value.rstrip("=")
    digits = sum(character.isdigit() for character in plain)
    letters = sum(character.isalpha() for character in plain)
    if letters < 2 or digits < 2 or _EXAMPLES.search(value):
        return False
    if _UUID.fullmatch(value):
        return False
    # random hex of 32 characters has about 3.5 bits a character, random base64 of 20 about 4
    if all(character in "0123456789abcdefABCDEF" for character in plain):
        return entropy(plain) >= 2.9
    if entropy(plain) < 3.4:
        return False
    upper = sum(character.isupper() for character in plain)
    # drawn strings have both cases, or a digit at every third place (base 36)
    if min(upper, letters - upper) == 0 and digits * 5 < len(plain):
        return False
    # what is written is words and numbers between separators; words are long runs of one case
    pieces = re.split(r"[_.\-/+=]+", plain)
    if len(pieces) > 2 and all(map(_PIECE.fullmatch, pieces)):
        return False
    runs = (run for piece in pieces for run in re.findall(r"[A-Z]?[a-z]{4,}|[A-Z]{5,}", piece))
    return sum(len(run) for run in runs if _is_word(run)) * 5 <= len(plain) * 2


def _is_word(run: str) -> bool:
    """Whether a run of letters of one case has vowels where words have them."""
    lowered = run.lower()
    vowels = sum(character in "aeiouy" for character in lowered)
    longest = max(map(len, re.findall(r"[^aeiouy]+", lowered)), default=0)
    return len(run) >= 4 and 0.2 <= vowels / len(run) <= 0.7 and longest <= 3


def entropy(value: str) -> float:
    """Shannon's, in bits per character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())


def is_secret_name(name: str) -> bool:
    """Whether a name says that its value is a secret: by its last words, and by none that means something else."""
    words = [word.lower() for word in _WORD.findall(name)]
    while words and (words[-1] in _TAILS or words[-1].isdigit()):
        words.pop()
    if not words or _NOT_SECRET.intersection(words):
        return False
    words[-1] = words[-1].rstrip("0123456789")
    return words[-1] in _SECRETS or (words[-1] == "key" and len(words) > 1 and words[-2] in _KEYS_OF)


def _is_named(text: str, start: int) -> bool:
    """Whether a string stands behind the name of a secret, on one line."""
    line = text.rfind("\n", max(0, start - _CONTEXT), start)
    found = _OPERATOR.search(text[line + 1 if line >= 0 else max(0, start - _CONTEXT) : start])
    return found is not None and is_secret_name(found[1])


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
            host = text[found.end() - 1 : found.end() + 60]
            if not (is_example(found[1]) or found[1].lower() in _PLAIN_PASSWORDS or _EXAMPLE_HOST.match(host)):
                yield Finding(found.start(1), found.end(1), "password", found[1])


_LEET = str.maketrans("013457@$!", "oieastasi")
_PLAIN_PASSWORDS = frozenset(
    ["pass", "pwd", "user", "pw", "admin", "root", "guest", "postgres", "mysql", "redis", "rabbit"]
)
_EXAMPLE_HOST = re.compile(r"(?:[\w-]+\.)*(?:example|test|invalid|localhost)(?:\.\w+)?(?=[:/?#\"'\s]|$)", re.IGNORECASE)


def is_example(value: str) -> bool:
    """Whether a value has a word of documentation in it, also where digits stand for letters (``s3cr3t``)."""
    return bool(_EXAMPLES.search(value) or _EXAMPLES.search(value.lower().translate(_LEET)))


_WORDS = re.compile(r"[^\W\d_]+(?:[^\w\s][^\W\d_]*|_[^\W\d_]*)*")  # of any script, with marks between and behind


# a path, an attribute, a constant, a call, a template, a selector
_CODE = re.compile(r"[A-Za-z_]\w*(?:[.:/\\-]+\w+)+[.:/]?|[/.~]\S*|[A-Z][A-Z0-9_]+|.*[\[\](){}].*")


def is_password(value: str) -> bool:
    """Whether a quoted string after a password's name is one: letters with digits or marks, no words, no path."""
    digits = sum(c.isdigit() for c in value)
    letters = sum(c.isalpha() for c in value)
    marks = len(value) - digits - letters
    cases = any(c.islower() for c in value) + any(c.isupper() for c in value)
    if is_example(value) or _WORDS.fullmatch(value) or not letters:
        return False
    if _CODE.fullmatch(value):
        return False
    return digits > 0 or (marks > 0 and cases == 2 and value[-1] not in ":!?.…")
