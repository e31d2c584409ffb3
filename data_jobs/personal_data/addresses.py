"""IP addresses.

Spared: everything that is not globally routed (private, loopback, documentation, multicast, ...), public name servers,
and four-part numbers that are versions or section numbers.
"""

import ipaddress
import re
import string
from collections.abc import Iterator

from data_jobs.personal_data.findings import Finding
from data_jobs.runs import character_class, runs

_CHARACTERS, _PARTING = character_class(string.hexdigits + ".:"), character_class(".:")
# four parts, or the block that is routed (2000::/3)
_ADDRESS = re.compile(
    r"(?<![\w:.])(?:(?P<v4>[1-9]\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3})(?![\w]|\.\d|[-+]\w)"
    r"|[23][0-9a-fA-F]{3}:(?:[0-9a-fA-F]{0,4}:){1,6}[0-9a-fA-F]{0,4}(?![\w:]))",
    re.ASCII,
)
_VERSION = re.compile(
    r"(?:version|\bver\b|release|revision|\brev\b|build|upgrade|section|chapter|paragraph|\brfc|clause|standard|\bieee|\bjdk|\boid\b|§"
    r"|[<>=~^]=\s*[\"']?$|\bv\.?\s*$|[-_/]v?$|@$)",
    re.IGNORECASE,
)
NAME_SERVERS = frozenset(
    [
        "8.8.8.8",
        "8.8.4.4",
        "1.1.1.1",
        "1.0.0.1",
        "1.1.1.2",
        "1.0.0.2",
        "1.1.1.3",
        "9.9.9.9",
        "9.9.9.10",
        "149.112.112.112",
        "208.67.222.222",
        "208.67.220.220",
        "4.2.2.1",
        "4.2.2.2",
        "4.2.2.3",
        "4.2.2.4",
        "64.6.64.6",
        "64.6.65.6",
        "76.76.19.19",
        "94.140.14.14",
        "94.140.15.15",
        "114.114.114.114",
        "223.5.5.5",
        "223.6.6.6",
        "77.88.8.8",
        "2001:4860:4860::8888",
        "2001:4860:4860::8844",
        "2606:4700:4700::1111",
        "2606:4700:4700::1001",
        "2620:fe::fe",
    ]
)
# numbers that people count out
_PLACEHOLDERS = frozenset(
    ["1.2.3.4", "2.3.4.5", "4.3.2.1", "5.6.7.8", "6.7.8.9", "12.34.56.78", "11.22.33.44", "99.99.99.99", "1.1.1.2"]
)
_OBJECT_IDS = ("1.0.", "1.2.", "1.3.", "2.5.", "2.16.", "2.23.")  # arcs of ISO and ITU: 2.5.29.15 is a key's usage
_NETWORK = re.compile(
    r"\b(?:ip|ips|ipv4|addr|address|host|hosts|server|servers|dns|ping|gateway|proxy|node|peer|remote|client|bind|listen"
    r"|connect|ssh|route|subnet|cidr|x-forwarded-for|inet|nameserver|resolver)\w*\b|://$|@$",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^[\s#*/;%-]*§?\s*$")
_SMALL = 32  # numbers of versions and sections stay below it
_CONTEXT = 40


def find_addresses(text: str) -> Iterator[Finding]:
    """Every public IPv4 and IPv6 address."""
    for start, end in runs(text, _CHARACTERS, 6, _PARTING, 2):
        for found in _ADDRESS.finditer(text, start, end + 2):  # two more: what may not follow
            spared = _is_number if found["v4"] else _is_slice
            if is_public(found[0]) and not _is_block(text, found) and not spared(text, found):
                yield Finding(found.start(), found.end(), "address", found[0])


def is_public(value: str) -> bool:
    """Whether this is a valid address of somebody's machine."""
    if value in NAME_SERVERS or value in _PLACEHOLDERS:
        return False
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _is_number(text: str, found: re.Match[str]) -> bool:
    """Whether four parts are a version, an object id, or the number of a section."""
    start, value = found.start(), found[0]
    line = text[text.rfind("\n", max(0, start - _CONTEXT), start) + 1 or max(0, start - _CONTEXT) : start]
    if _VERSION.search(line) or (value.startswith(_OBJECT_IDS) and not _NETWORK.search(line)):
        return True
    behind = text[found.end() : found.end() + 3]
    if _HEADING.match(line) and len(behind) > 1 and behind[0] in " \t" and behind[1:2].isupper():
        return True
    small = all(int(part) < _SMALL for part in value.split("."))
    return small and not _NETWORK.search(line) and not re.match(r":\d|/\d", behind)


def _is_block(text: str, found: re.Match[str]) -> bool:
    """Whether this is a network, nobody's machine: 11.0.0.0, 130.137.249.0/24, 2620:4f:8000::/48."""
    prefix = re.match(r"/(\d{1,3})(?!\d)", text[found.end() : found.end() + 4])
    if prefix:
        return int(prefix[1]) < (32 if found["v4"] else 128)
    return found[0].endswith((".0.0", ".0", "::"))


def _is_slice(text: str, found: re.Match[str]) -> bool:
    """Whether numbers between colons are the bounds of a slice: ``x[2000::3]``."""
    value = found[0]
    return value.replace(":", "").isdigit() and value.count(":") <= 3
