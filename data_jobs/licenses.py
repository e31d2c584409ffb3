"""Licences by SPDX id: which are permissive, what a licence file says, and which files it covers."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_LICENSE_BYTES = 200_000
MIN_SCORE = 0.8  # askalono's Dice score; its own command line takes 0.8 as sure
_LICENSE_NAME = re.compile(
    r"(?:^|/)(?:un)?(?:licen[cs]es?|copying|copyright|mit-license|legal)(?:[-.](?:\w|[-.])*)?$", re.IGNORECASE
)
_NOT_TEXT = re.compile(r"\.(?:py|js|ts|go|rs|java|c|h|cpp|rb|php|html?|json|xml|css|sh|png|svg)$", re.IGNORECASE)
_SPDX = re.compile(r"SPDX-License-Identifier:\s*\(?([A-Za-z0-9.+\-]+(?:\)?\s+(?:AND|OR|WITH)\s+\(?[A-Za-z0-9.+\-]+)*)")
_HEADER_CHARACTERS = 2000

# The permissive set of StarCoder's data (the Blue Oak Council's list in practice), the most common of it
# fmt: off
PERMISSIVE = frozenset({
    "0BSD", "AFL-2.1", "AFL-3.0", "Apache-1.1", "Apache-2.0", "Artistic-2.0", "BlueOak-1.0.0", "BSD-1-Clause",
    "BSD-2-Clause", "BSD-2-Clause-Patent", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSD-3-Clause-LBNL",
    "BSD-4-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "curl", "ECL-2.0", "EFL-2.0", "FSFAP", "FTL",
    "HPND", "ICU", "ISC", "libpng-2.0", "Libpng", "MIT", "MIT-0", "MS-PL", "MulanPSL-2.0", "NCSA", "OFL-1.1",
    "OpenSSL", "PHP-3.01", "PostgreSQL", "PSF-2.0", "Python-2.0", "Python-2.0.1", "Ruby", "TCL", "Unicode-DFS-2016",
    "Unlicense", "UPL-1.0", "Vim", "W3C", "WTFPL", "X11", "Xnet", "Zlib", "ZPL-2.1",
})
# fmt: on


def rank(licenses: Sequence[str] | None) -> int:
    """0 when every licence is permissive, 1 when there is none, 2 otherwise."""
    if not licenses:
        return 1
    return 0 if PERMISSIVE.issuperset(licenses) else 2


def is_license_file(path: str) -> bool:
    """Whether a path's name is that of a licence text (``LICENSE``, ``COPYING.txt``, ``licenses/MIT.txt``, ...)."""
    if _NOT_TEXT.search(path):
        return False
    folder, name = posixpath.split(path)
    return bool(_LICENSE_NAME.search(name)) or posixpath.basename(folder).lower() == "licenses"


def identify(text: str) -> str | None:
    """The SPDX id of a licence text, or None when it is none that SPDX lists (askalono's matcher)."""
    import askalono

    header = spdx_header(text)
    if header:
        return header[0]
    found = askalono.identify(text)
    return str(found.name) if found.score >= MIN_SCORE else None


def spdx_header(text: str) -> tuple[str, ...]:
    """The SPDX ids that a file's first lines declare; ``OR`` leaves the choice, so the permissive one is taken."""
    if "SPDX" not in text[:_HEADER_CHARACTERS]:
        return ()
    found = _SPDX.search(text, 0, _HEADER_CHARACTERS)
    if not found:
        return ()
    choices = [tuple(_ids(choice)) for choice in re.split(r"\s+OR\s+", found[1])]
    return min(choices, key=rank)


def _ids(expression: str) -> list[str]:
    # an exception (WITH ...) loosens the licence before it, which is named alone
    required = re.split(r"\s+AND\s+", expression)
    return [re.split(r"\s+WITH\s+", part)[0].strip("() ") for part in required]


@dataclass(frozen=True)
class Inherited:
    """Licences by (repository, folder): a file has those of the nearest licence files above it."""

    by_folder: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def of(self, repo_name: str, path: str) -> tuple[str, ...]:
        """The licences that cover a file; empty when its repository has none."""
        folder = posixpath.dirname(path)
        while True:
            found = self.by_folder.get((repo_name, folder))
            if found is not None:
                return found
            if not folder:
                return ()
            folder = posixpath.dirname(folder)


def inherit(texts: Sequence[tuple[str, str, str]]) -> Inherited:
    """Match licence texts, given as (repository, path, text); equal texts are matched once.

    A text that no SPDX licence matches counts as ``LicenseRef-unknown``, which no policy takes for permissive.
    """
    known: dict[str, str] = {}
    folders: dict[tuple[str, str], set[str]] = {}
    for repo_name, path, text in texts:
        if text not in known:
            known[text] = identify(text) or "LicenseRef-unknown"
        folder = posixpath.dirname(path)
        if posixpath.basename(folder).lower() == "licenses":
            folder = posixpath.dirname(folder)
        folders.setdefault((repo_name, folder), set()).add(known[text])
    return Inherited({key: tuple(sorted(ids)) for key, ids in sorted(folders.items())})
