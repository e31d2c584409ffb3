"""SPDX licence expressions (SPDX 2.3, annex D), by the library license-expression; which licences are permissive.

Licences of a row are a list of expressions that all hold: ``["GPL-3.0-only", "MIT OR Apache-2.0"]``. So an ``AND`` at
the top is taken apart, and what is left of an expression is in one written form.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from starloom.errors import UserError, one_line

# The permissive set of StarCoder's data (the Blue Oak Council's list in practice), the most common of it
# fmt: off
PERMISSIVE = frozenset({
    "0BSD", "Adobe-2006", "AFL-1.1", "AFL-1.2", "AFL-2.0", "AFL-2.1", "AFL-3.0", "AMPAS", "Apache-1.0", "Apache-1.1",
    "Apache-2.0", "Artistic-2.0", "Beerware", "BlueOak-1.0.0", "BSD-1-Clause", "BSD-2-Clause", "BSD-2-Clause-Patent",
    "BSD-2-Clause-Views", "BSD-3-Clause", "BSD-3-Clause-Attribution", "BSD-3-Clause-Clear", "BSD-3-Clause-HP",
    "BSD-3-Clause-LBNL", "BSD-3-Clause-Modification", "BSD-3-Clause-Open-MPI", "BSD-3-Clause-Sun", "BSD-4-Clause",
    "BSD-Source-Code", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "curl", "dtoa", "ECL-1.0", "ECL-2.0", "EFL-2.0",
    "Fair", "FSFAP", "FTL", "HPND", "HPND-sell-variant", "ICU", "Intel", "ISC", "ISC-Veillard", "libpng-2.0", "Libpng",
    "Linux-OpenIB", "MIT", "MIT-0", "MIT-CMU", "MIT-enna", "MIT-feh", "MIT-Modern-Variant", "MIT-open-group", "MS-PL",
    "MulanPSL-2.0", "NCSA", "NTP", "OFL-1.1", "OpenSSL", "PHP-3.0", "PHP-3.01", "Plexus", "PostgreSQL", "PSF-2.0",
    "Python-2.0", "Python-2.0.1", "Ruby", "Spencer-86", "Spencer-94", "Spencer-99", "SSH-OpenSSH", "TCL",
    "Unicode-3.0", "Unicode-DFS-2015", "Unicode-DFS-2016", "Unlicense", "UPL-1.0", "Vim", "W3C", "WTFPL", "X11",
    "Xnet", "Zlib", "ZPL-2.1",
})
# fmt: on
UNPARSED = "LicenseRef-unparsed"  # somebody declared a licence, and not in the words of SPDX
_OWN = re.compile(r"(?:DocumentRef-[\w.-]+:)?LicenseRef-[\w.-]+", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z0-9.+:-]+(?: WITH [A-Za-z0-9.+:-]+)?")  # SPDX's idstring; underscores are not in it
_LONGEST = 2000  # characters of an expression

Conjuncts = tuple[str, ...]


@lru_cache(maxsize=1)
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@lru_cache(maxsize=65_536)
def conjuncts_of(expression: str) -> Conjuncts:
    """The parts of an expression that all hold, sorted, each in SPDX's spelling; case does not matter.

    Raises:
        ValueError: it is no SPDX expression.
    """
    from license_expression import ExpressionError

    text = " ".join(expression.split())
    if not text or len(text) > _LONGEST:
        raise ValueError(f"no SPDX expression: {text[:60]!r}")
    text = re.sub(r"(?i)\b(and|or|with)\b", lambda found: found[1].upper(), text)
    try:
        tree = _licensing().parse(text)
    except (ExpressionError, RecursionError) as error:
        raise ValueError(f"no SPDX expression: {text[:60]!r} ({one_line(error, 80)})") from None
    if tree is None:
        raise ValueError(f"no SPDX expression: {text[:60]!r}")
    if not all(_ID.fullmatch(str(symbol)) for symbol in tree.symbols):
        raise ValueError(f"no SPDX expression: {text[:60]!r}")
    tree = tree.simplify()
    parts = tree.args if isinstance(tree, _licensing().AND) else (tree,)
    return tuple(sorted({str(part) for part in parts}))


def parse_or_unparsed(expression: str) -> Conjuncts:
    """`conjuncts_of`; what is no expression holds as `UNPARSED`, which no policy takes for permissive."""
    try:
        return conjuncts_of(expression)
    except ValueError:
        return (UNPARSED,)


def conjoined(*several: Sequence[str]) -> Conjuncts:
    """All parts of several lists, each once, sorted."""
    return tuple(sorted({part for conjuncts in several for part in conjuncts}))


def ids_of(conjuncts: Sequence[str]) -> frozenset[str]:
    """Every licence that is named anywhere in them, exceptions left out."""
    trees = (_licensing().parse(part) for part in conjuncts)
    return frozenset(str(_base(symbol)) for tree in trees for symbol in tree.symbols)


def allows(conjuncts: Sequence[str], allowed: frozenset[str]) -> bool:
    """Whether every part can be met with licences of the set: of an ``OR`` one side is enough."""
    return not unmet(conjuncts, allowed)


def unmet(conjuncts: Sequence[str], allowed: frozenset[str]) -> list[str]:
    """The parts that cannot be met with licences of the set."""
    return [part for part in conjuncts if not _met(part, allowed)]


@lru_cache(maxsize=65_536)
def _met(part: str, allowed: frozenset[str]) -> bool:
    try:
        tree = _licensing().parse(part)
    except Exception:  # noqa: BLE001 - a table may hold any text as a licence; what cannot be read is not allowed
        return False
    return tree is not None and _holds(tree, allowed)


def _holds(tree: Any, allowed: frozenset[str]) -> bool:
    if isinstance(tree, _licensing().AND):
        return all(_holds(arg, allowed) for arg in tree.args)
    if isinstance(tree, _licensing().OR):
        return any(_holds(arg, allowed) for arg in tree.args)
    if str(tree) in allowed:
        return True
    exception = getattr(tree, "exception_symbol", None)
    # an exception that SPDX lists only loosens; one that it does not list may take away
    if exception is not None and not exception.is_exception:
        return False
    key = str(_base(tree))
    # "or later" leaves the choice of the version that is named
    named = key.removesuffix("+").removesuffix("-or-later")
    return bool({key, named, f"{named}-only"} & allowed)


def _base(symbol: Any) -> Any:
    return getattr(symbol, "license_symbol", symbol)


def rank(conjuncts: Sequence[str] | None) -> int:
    """0 when the permissive licences are enough, 1 when there is none, 2 otherwise."""
    if not conjuncts:
        return 1
    return 0 if allows(conjuncts, PERMISSIVE) else 2


def known_ids(names: Sequence[str], *, setting: str) -> frozenset[str]:
    """The SPDX ids that a setting lists, in SPDX's spelling; ``LicenseRef-`` names are taken as they are.

    Raises:
        UserError: SPDX has no licence of that name.
    """
    found = set()
    for name in names:
        try:
            (part,) = conjuncts_of(name)
        except ValueError:
            raise UserError(f"{setting}: {name!r} is no SPDX id such as 'MIT'") from None
        if not _OWN.fullmatch(part) and _licensing().unknown_license_keys(part):
            raise UserError(f"{setting}: {name!r} is no SPDX id such as 'MIT'")
        found.add(part)
    return frozenset(found)
