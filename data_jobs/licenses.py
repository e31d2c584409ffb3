"""Licences by SPDX id: which are permissive."""

from collections.abc import Sequence

# The permissive set of StarCoder's data (the Blue Oak Council's list in practice), the most common of it
PERMISSIVE = frozenset(
    [
        "0BSD",
        "AFL-2.1",
        "AFL-3.0",
        "Apache-1.1",
        "Apache-2.0",
        "Artistic-2.0",
        "BlueOak-1.0.0",
        "BSD-1-Clause",
        "BSD-2-Clause",
        "BSD-2-Clause-Patent",
        "BSD-3-Clause",
        "BSD-3-Clause-Clear",
        "BSD-3-Clause-LBNL",
        "BSD-4-Clause",
        "BSL-1.0",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC0-1.0",
        "curl",
        "ECL-2.0",
        "EFL-2.0",
        "FSFAP",
        "FTL",
        "HPND",
        "ICU",
        "ISC",
        "libpng-2.0",
        "Libpng",
        "MIT",
        "MIT-0",
        "MS-PL",
        "MulanPSL-2.0",
        "NCSA",
        "OFL-1.1",
        "OpenSSL",
        "PHP-3.01",
        "PostgreSQL",
        "PSF-2.0",
        "Python-2.0",
        "Python-2.0.1",
        "Ruby",
        "TCL",
        "Unicode-DFS-2016",
        "Unlicense",
        "UPL-1.0",
        "Vim",
        "W3C",
        "WTFPL",
        "X11",
        "Xnet",
        "Zlib",
        "ZPL-2.1",
    ]
)


def rank(licenses: Sequence[str] | None) -> int:
    """0 when every licence is permissive, 1 when there is none, 2 otherwise."""
    if not licenses:
        return 1
    return 0 if all(license in PERMISSIVE for license in licenses) else 2
