"""What a file says of its own licence: SPDX tags anywhere in it, and the notices of old in its opening comment."""

import re
from collections.abc import Iterator
from functools import lru_cache

from data_jobs.comments import opening_comment
from data_jobs.licenses.expressions import UNPARSED, Conjuncts, conjoined, parse_or_unparsed

_TAG = re.compile(r"SPDX-License-Identifier[ \t]*:", re.IGNORECASE)
_IGNORED = re.compile(r"REUSE-IgnoreStart.*?(?:REUSE-IgnoreEnd|\Z)", re.DOTALL)
_LEADER = r"(?:/\*+|//+|\*+|\#+|--+|;+|%+|<!--|\{-|\{\#|\(\*|\.\.|!+|\brem\b|\bdnl\b|@c\b|\bC\b|\|)"
_BEFORE = re.compile(rf"(?i)\s*(?:{_LEADER}[^\"'`\n]*|[\"']\s+|[^\w\"'`\n]*|[ \t]*copyright[^\"'`\n]*)\Z")
_NEXT_LINE = re.compile(rf"(?i)[ \t]*(?:{_LEADER}|[\"'])?[ \t]*")
_TOKEN = re.compile(r"[ \t]*(\(|\)|[A-Za-z0-9][A-Za-z0-9.+:_-]*)")
_OPERATORS = ("AND", "OR", "WITH")
_NOTHING = ("NONE", "NOASSERTION")
_LINES_PER_TAG = 8


def spdx_tags(text: str) -> Conjuncts:
    """What all ``SPDX-License-Identifier`` tags of a file declare together; they may run over several lines.

    A tag counts at a line's beginning or behind a comment's mark; in a string of a program it does not.
    """
    if "SPDX" not in text and "spdx" not in text:
        return ()
    # what a string quotes is some other file's
    shown = _IGNORED.sub("", text) if "REUSE-IgnoreStart" in text else text
    ends = (found.end() for found in _tags(shown) if _is_declared(shown, found.start()))
    expressions = (_expression(shown, end) for end in ends)
    return conjoined(*(parse_or_unparsed(one) for one in expressions if one and one.upper() not in _NOTHING))


def _tags(text: str) -> Iterator[re.Match[str]]:
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter that is two in lower case: places must stay
        yield from _TAG.finditer(text)
        return
    at = lowered.find("spdx-license-identifier")
    while at >= 0:
        found = _TAG.match(text, at)
        if found:
            yield found
        at = lowered.find("spdx-license-identifier", at + 1)


def _is_declared(text: str, at: int) -> bool:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return len(line) < 500 and _BEFORE.fullmatch(line) is not None


def _expression(text: str, at: int) -> str:
    """The expression that begins at `at`: as many words of it as follow SPDX's grammar."""
    words: list[str] = []
    depth, wants_licence = 0, True
    for number, line in enumerate(_lines_from(text, at)):
        if number and not (wants_licence or depth or line.lstrip().split(" ", 1)[0] in _OPERATORS):
            break
        place = 0
        while found := _TOKEN.match(line, place):
            word = found[1]
            if word == "(" and wants_licence:
                depth += 1
            elif word == ")" and not wants_licence and depth:
                depth -= 1
            elif word.upper() in _OPERATORS and not wants_licence:
                wants_licence = True
            elif wants_licence and word not in "()" and word.upper() not in _OPERATORS:
                wants_licence = False
                word = word.rstrip(".:,-")
            else:
                break
            words.append(word)
            place = found.end()
        if not words:
            return UNPARSED if line.strip() else ""
    return " ".join(words)


def _lines_from(text: str, at: int) -> Iterator[str]:
    for number in range(_LINES_PER_TAG):
        end = text.find("\n", at)
        line = text[at : end if end >= 0 else len(text)][:500]
        leader = _NEXT_LINE.match(line) if number else None
        yield line[leader.end() if leader else 0 :]
        if end < 0:
            return
        at = end + 1


_GNU_NAME = re.compile(
    r"GNU (?P<kind>Affero |Lesser |Library )?(?:General )?Public Licen[cs]e|\b(?P<short>A|L)?GPL(?=\b|v?\d)",
    re.IGNORECASE,
)
_GNU_GRANT = re.compile(
    r"(?:under the terms of|licen[cs]ed under|released under|distributed under|covered by)\W[^.]{0,60}?"
    r"(?:GNU (?:\w+ )?(?:General )?Public Licen[cs]e|\b[AL]?GPL(?=\b|v?\d))",
    re.IGNORECASE,
)
_OF_OTHERS = re.compile(r"that is|that are|which is|other software|compatible|combin", re.IGNORECASE)
_GNU_VERSION = re.compile(r"(?:version|v\.?|gpl-?)\s?(\d(?:\.\d)?)", re.IGNORECASE)
_LATER = re.compile(r"(?:any|or) (?:later|newer)|or \(at your option\) any|\d\+", re.IGNORECASE)
_NOTICES: tuple[tuple[str, str], ...] = (
    (r"licensed under the apache license,? version 2\.0|apache\.org/licenses/license-2\.0", "Apache-2.0"),
    (r"mozilla public license,? (?:v\.|version) ?2\.0|mozilla\.org/mpl/2\.0", "MPL-2.0"),
    (r"mozilla public license,? version 1\.1|version: mpl 1\.1", "MPL-1.1"),
    (r"eclipse public license,? (?:-? ?v(?:\.|ersion)? ?)?2\.0|eclipse\.org/legal/epl-2\.0", "EPL-2.0"),
    (r"eclipse public license,? (?:-? ?v(?:\.|ersion)? ?)?1\.0|eclipse\.org/legal/epl-v10", "EPL-1.0"),
    (r"common development and distribution license", "CDDL-1.0"),
    (r"permission to use, copy, modify,? (?:and/or|and) distribute this software for any purpose", "ISC"),
    (r"boost software license,? (?:-? ?version )?1\.0", "BSL-1.0"),
    (r"server side public license", "SSPL-1.0"),
    (r"business source license", "BUSL-1.1"),
    (r"elastic license 2\.0", "Elastic-2.0"),
    (r"creative ?commons (?:cc )?by 3\.0", "CC-BY-3.0"),
    (r"creative ?commons (?:cc )?by 4\.0", "CC-BY-4.0"),
)
_PERMISSIONS = (
    ("permission is hereby granted, free of charge, to any person obtaining", "MIT"),
    ("this is free and unencumbered software released into the public domain", "Unlicense"),
)
# what a pattern needs: words that are looked for first, because most headers have none of them
_NOTICE_PATTERNS = tuple((re.compile(pattern), license_id) for pattern, license_id in _NOTICES)
_NOTICE_WORDS = (
    *("apache", "mozilla", "mpl ", "eclipse", "common development", "permission to use", "boost software"),
    *("server side public", "business source", "elastic license", "creative"),
)
_WORTH_A_LOOK = re.compile(
    r"licen[cs]e|permission|redistribut|public domain|proprietary|confidential|free software|terms", re.IGNORECASE
)


def header_notices(text: str) -> Conjuncts:
    """The licences that the opening comment tells in the customary words (``This program is free software; ...``)."""
    header = text[: opening_comment(text)]
    return notices(header) if _WORTH_A_LOOK.search(header) else ()


@lru_cache(maxsize=4096)  # thousands of files have the same header
def notices(text: str) -> Conjuncts:
    """The licences that a text gives in the customary words, and what it takes away."""
    plain = " ".join(re.sub(r"(?m)^[ \t]*(?:[*#;%!]+|//+|--+|dnl|REM)", " ", text).split())
    lowered = plain.lower()
    worth = any(word in lowered for word in _NOTICE_WORDS)
    found = {license_id for pattern, license_id in _NOTICE_PATTERNS if worth and pattern.search(lowered)}
    found |= set(permissions(lowered))
    either = _EITHER.search(plain)
    if either and (choices := list(_choices(either[1]))):
        return conjoined((" OR ".join(sorted(set(choices))),), restrictions(lowered, surely=True))
    if re.search(r"same terms as (?:the )?perl\b", lowered):
        found.add("Artistic-1.0-Perl OR GPL-1.0-or-later")
    found |= set(_gnu(plain))
    return tuple(sorted(found | set(restrictions(lowered, surely=True))))


def permissions(lowered: str) -> Conjuncts:
    """The short permissive licences whose own words a text in lower case, white space single, has."""
    found = {license_id for words, license_id in _PERMISSIONS if words in lowered}
    if "redistribution and use in source and binary forms" in lowered:
        found.add(_bsd(lowered))
    return tuple(sorted(found))


_EITHER = re.compile(
    r"(?:terms of|licen[cs]ed under|under|by) either (?:of )?([^.]{0,300}\bor\b[^;]{0,200})", re.IGNORECASE
)


def _choices(text: str) -> Iterator[str]:
    """The licences that a sentence lets one choose from."""
    lowered = text.lower()
    for word, license_id in (("apache", "Apache-2.0"), ("mit", "MIT"), ("isc", "ISC"), ("mozilla", "MPL-2.0")):
        if re.search(rf"\b{word}\b", lowered):
            yield license_id
    if re.search(r"\bbsd\b", lowered):
        yield "BSD-3-Clause"
    named = _GNU_NAME.search(text)
    if named:
        yield _gnu_id(text, named)


def _bsd(lowered: str) -> str:
    if "all advertising materials" in lowered:
        return "BSD-4-Clause"
    return "BSD-3-Clause" if re.search(r"endorse or promote|neither the name", lowered) else "BSD-2-Clause"


def _gnu(plain: str) -> Iterator[str]:
    for granted in _GNU_GRANT.finditer(plain):
        # what one may combine with software under the GPL is not itself under it
        if not _OF_OTHERS.search(plain, max(0, granted.start() - 60), granted.start()):
            named = _GNU_NAME.search(plain, granted.start())
            if named:
                yield _gnu_id(plain, named)
            return


def _gnu_id(plain: str, named: re.Match[str]) -> str:
    kind = (named["kind"] or named["short"] or "").strip().lower()
    family = {"affero": "AGPL", "a": "AGPL", "lesser": "LGPL", "library": "LGPL", "l": "LGPL"}.get(kind, "GPL")
    around = plain[max(0, named.start() - 80) : named.end() + 300]
    version = _GNU_VERSION.search(around)
    number = version[1] if version else {"GPL": "1.0", "LGPL": "2.0", "AGPL": "1.0"}[family]
    number = number if "." in number else f"{number}.0"
    later = not version or _LATER.search(around)
    return f"{family}-{number}-{'or-later' if later else 'only'}"


# (name, pattern, whether the words alone are enough in any text)
_RESTRICTIONS: tuple[tuple[str, str, bool], ...] = (
    ("commons-clause", r"commons clause", True),
    ("noncommercial", r"non-?commercial|not for commercial|(?:no|for) commercial (?:use|purpose)"
     r"|commercial use (?:is|of)", True),
    ("no-training", r"(?:not|no|prohibit\w*)\b[^.]{0,120}\b(?:train(?:ing|ed|s)?|machine learning"
     r"|artificial intelligence)\b", True),
    ("no-sale", r"(?:may|shall|must|do|can) ?not (?:be )?(?:sell|sold|resell|resold)|right to sell the software", True),
    ("proprietary", r"proprietary and confidential|confidential and proprietary|proprietary (?:software|information)"
     r"|unlicensed proprietary|trade secrets? of|unauthori[sz]ed copying", True),
    ("evaluation", r"for evaluation (?:purposes|only)|evaluation license|(?:research|academic|educational|internal)"
     r" (?:use|purposes) only|only for (?:research|academic|educational|internal)", True),
    ("proprietary", r"all rights reserved", False),
    ("restrictive", r"(?:may|shall|must|can) ?not\b|not (?:be )?(?:permitted|allowed)|prohibit|without (?:the )?"
     r"(?:prior |express |written )+(?:permission|consent)|is forbidden|you agree|you must|derivative works? must"
     r"|provided that you|subject to (?:the|these)", False),
)  # fmt: skip
_RESTRICTION_PATTERNS = tuple((name, re.compile(pattern), sure) for name, pattern, sure in _RESTRICTIONS)


def restrictions(lowered: str, *, surely: bool) -> Conjuncts:
    """What a text in lower case, white space single, takes away: ``LicenseRef-noncommercial`` and the like.

    With `surely` only words count that no permissive licence has; without, those too that speak against a text that no
    licence of SPDX matches.
    """
    names = {name for name, pattern, sure in _RESTRICTION_PATTERNS if (sure or not surely) and pattern.search(lowered)}
    return tuple(sorted(f"LicenseRef-{name}" for name in names))
