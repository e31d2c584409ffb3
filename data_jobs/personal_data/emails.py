"""E-mail addresses. Spared: documentation domains, ``git@host:`` URLs, image names such as ``icon@2x.png``."""

import re
from collections.abc import Iterator
from functools import lru_cache

from publicsuffixlist import PublicSuffixList

from data_jobs.personal_data.findings import Finding

# letters of one script alone: Chinese or Russian text runs on to an address without a blank
_OTHER = r"\u0370-\u052f\u0900-\u0dff\u4e00-\u9fff\uac00-\ud7a3"
_LATIN = r"A-Za-z0-9\u00c0-\u024f\u1e00-\u1eff"
_LOCALS = tuple(
    re.compile(rf"[{letters}](?:[{letters}._%+\-']*[{letters}_+\-])?\Z") for letters in (_LATIN, _OTHER + "0-9")
)
_LABEL = rf"[{_LATIN}](?:[{_LATIN}-]{{0,61}}[{_LATIN}])?"
_WIDE_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+([A-Za-z]{{2,18}}|xn--[a-z0-9-]{{2,58}})(?![A-Za-z0-9_(-])")
_WIDE_DOMAIN = re.compile(rf"(?:{_WIDE_LABEL}\.)+([^\W\d_]{{2,18}})(?![\w(-])")
_LOCAL_CHARACTERS = 64
_LABELS = frozenset(["this", "super", "return", "continue", "break"])  # Kotlin's: this@Outer.name


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False, only_icann=True)


@lru_cache(maxsize=65_536)
def is_public_domain(domain: str) -> bool:
    """Whether a domain stands below a public suffix of the list that comes with publicsuffixlist."""
    suffix = _suffixes().publicsuffix(domain.lower())
    return suffix is not None and suffix != domain.lower()


# RFC 2606 and RFC 6761, and what documentation writes in their place
_DOCUMENTATION = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost)(?:\.|$)|^(?:domain|host|email|yourdomain|mydomain|company|foo|bar)\.\w+$",
    re.IGNORECASE,
)
# names of algorithms and extensions of SSH (RFC 4250, section 4.6.1): aes128-gcm@openssh.com
_PROTOCOL_DOMAINS = frozenset(["openssh.com", "libssh.org", "ssh.com", "vandyke.com", "lysator.liu.se"])
_EXTENSIONS = frozenset(["keepalive", "statvfs", "fstatvfs", "hardlink", "fsync", "lsetstat", "eow", "newline"])
_ALGORITHM = re.compile(
    r"(?:hmac|umac|aes|chacha|rijndael|sha\d|sk-|ssh-|ecdsa|rsa|kex|curve25519|zlib)", re.IGNORECASE
)


def find_emails(text: str) -> Iterator[Finding]:
    """Every e-mail address; the work is proportional to the number of ``@``."""
    at = text.find("@")
    while at >= 0:
        following = text.find("@", at + 1)
        finding = _around(text, at)
        if finding is not None:
            yield finding
        at = following


def _around(text: str, at: int) -> Finding | None:
    domain = _DOMAIN.match(text, at + 1) or _WIDE_DOMAIN.match(text, at + 1)
    if domain is None or _DOCUMENTATION.search(domain[0]) or not is_public_domain(domain[0]):
        return None
    before = text[max(0, at - _LOCAL_CHARACTERS) : at]
    local = next(filter(None, (pattern.search(before) for pattern in _LOCALS)), None)
    if local is None:
        return None
    name = local[0]
    start, behind = at - len(name), text[domain.end() : domain.end() + 2]
    # git@host:owner/repo, deploy@host:/srv: who logs in where
    if name in _LABELS or (behind[:1] == ":" and behind[1:].strip()) or (name == "git" and behind[:1] == "/"):
        return None
    protocol = domain[0].lower() in _PROTOCOL_DOMAINS and ("-" in name or _ALGORITHM.match(name))
    if protocol or name in _EXTENSIONS:
        return None
    if text[:start].endswith("://") or _password_of_url(text, start):
        return None
    return Finding(start, domain.end(), "email", text[start : domain.end()])


def _password_of_url(text: str, start: int) -> bool:
    """Whether the part before the ``@`` is the password of ``scheme://user:password@host``."""
    line = text[max(0, start - 80) : start]
    return line.endswith(":") and "://" in line.rsplit(" ", 1)[-1]
