"""IP addresses.

Spared: everything that is not globally routed (private, loopback, documentation, multicast, ...), public name servers,
and four-part numbers that are versions or section numbers.
"""

import ipaddress
import re
from collections.abc import Iterator

from data_jobs.personal_data.findings import Finding

# one pass for both, from the digits that either can begin with: four parts, or the block that is routed (2000::/3)
_ADDRESS = re.compile(
    r"(?=[1-9])(?<![\w:.])(?:(?P<v4>[1-9]\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3})(?![\w]|\.\d|[-+]\w)"
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
_PLACEHOLDERS = frozenset(["1.2.3.4", "12.34.56.78", "11.22.33.44"])  # numbers that people count out
_CONTEXT = 40


def find_addresses(text: str) -> Iterator[Finding]:
    """Every public IPv4 and IPv6 address."""
    for found in _ADDRESS.finditer(text):
        if is_public(found[0]) and not (found["v4"] and _is_number(text, found.start())):
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


def _is_number(text: str, start: int) -> bool:
    line = text[text.rfind("\n", max(0, start - _CONTEXT), start) + 1 or max(0, start - _CONTEXT) : start]
    return bool(_VERSION.search(line))
