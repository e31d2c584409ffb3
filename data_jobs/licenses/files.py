"""Which files of a repository tell its licence: licence texts by name or content, package metadata, REUSE, Debian."""

import posixpath
import re
from typing import Literal

MAX_LICENSE_BYTES = 200_000
Kind = Literal["text", "library", "content", "metadata", "map"]

_CODE = re.compile(
    r"\.(?:py|pyi|js|mjs|cjs|jsx|ts|tsx|go|rs|java|kt|c|cc|cpp|h|hpp|cs|rb|php|swift|lua|pl|r|sh|ps1|html?|json|ya?ml|xml|css"
    r"|scss|less|png|svg|gif|jpe?g|ico|pdf|csv|sql|lock|toml|ini|cfg|vue|svelte|dart|scala|ex|exs|erl|hs|ml|el|vim|template)$",
    re.IGNORECASE,
)
_TEXT_NAME = re.compile(
    r"(?:.*[-_. ])?(?:un)?licen[cs]es?(?:[-_. ].*|\d.*)?"  # LICENSE, MIT-LICENSE.txt, LICENSE_MIT, GPL-LICENSE.txt
    r"|(?:.*[-_. ])?copying(?:[-_. ].*|v?\d.*)?"  # COPYING3, COPYING.LESSER
    r"|(?:copyrights?|legal|eula|patents|ofl)(?:[-_. ].*)?"
    r"|(?:[al]?gpl|mpl|epl|cddl|eupl|apache|bsd|mit|bsl|isc|cc0?|cc-by|artistic|boost)(?:[-_. ]?v?\d[\w.+-]*)?"
    r"(?:[-_]clause|[-_]only|[-_]or[-_]later)?(?:\.(?:txt|md))?",  # gpl-2.0.txt, MIT.txt
    re.IGNORECASE,
)
_METADATA = frozenset(
    [
        "pyproject.toml",
        "setup.cfg",
        "package.json",
        "composer.json",
        "Cargo.toml",
        "pom.xml",
        "PKG-INFO",
        "METADATA",
        "DESCRIPTION",
    ]
)
_BY_CONTENT = re.compile(r"[^.]+|.*\.(?:txt|md|rst)", re.IGNORECASE)
_TELLING = re.compile(
    rb"GNU (?:AFFERO |LESSER |LIBRARY )?GENERAL PUBLIC LICENSE\s+Version|Permission is hereby granted, free of charge"
    rb"|Apache License\s+Version 2|Redistribution and use in source and binary forms|Mozilla Public License Version"
    rb"|Permission to use, copy, modify,|Eclipse Public License - v|BSD \d-Clause License\s",
    re.IGNORECASE,
)


def evidence_kind(path: str, size: int) -> Kind | None:
    """What a file tells about licences by its name, if anything.

    It is a licence ``text``, a ``library`` of texts (``LICENSES/``), package ``metadata`` or a ``map`` of files to
    licences (REUSE, Debian). ``content`` is a file at the top whose name tells nothing: `looks_like_a_licence` must say
    yes to its bytes.
    """
    folder, name = posixpath.split(path)
    if not size or size > MAX_LICENSE_BYTES:
        return None
    if name == "REUSE.toml" or path in (".reuse/dep5", "debian/copyright"):
        return "map"
    if name in _METADATA or name.endswith(".gemspec"):
        return "metadata"
    if _CODE.search(name):
        return None
    if posixpath.basename(folder).lower() == "licenses":
        return "library"
    if _TEXT_NAME.fullmatch(name):
        return "text"
    return "content" if not folder and _BY_CONTENT.fullmatch(name) else None


def looks_like_a_licence(content: bytes) -> bool:
    """Whether the first lines are those of a well-known licence."""
    return _TELLING.search(content[:4000]) is not None


def covered_folder(path: str) -> str:
    """The folder that a licence file speaks for: its own; of ``LICENSES/`` the one that it is in."""
    folder = posixpath.dirname(path)
    while posixpath.basename(folder).lower() == "licenses" or folder.endswith((".dist-info", ".egg-info")):
        folder = posixpath.dirname(folder)  # a wheel's own folder speaks for the whole wheel
    return folder
