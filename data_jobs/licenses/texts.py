"""Licence texts: which licences of SPDX they are, by askalono's matcher and by what they say of themselves."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from data_jobs.licenses.expressions import Conjuncts, conjoined, conjuncts_of
from data_jobs.licenses.headers import notices, permissions, restrictions, spdx_tags

MIN_SCORE = 0.8  # askalono's Dice score; its own command line takes 0.8 as sure
SURELY_ALONE = 0.97  # nothing of weight stands beside a text that matches so well
_SHORTEST_SECTION, _MOST_SECTIONS = 200, 24
_SEPARATOR = re.compile(
    r"\n[ \t]*[-=*_#~+]{3,}[^\n]*(?=\n)|\n[ \t]*\n[ \t]*\n+|\n(?=[^\n]{0,60}licen[cs]e[^\n]{0,20}\n)", re.IGNORECASE
)
_COPYRIGHT_LINE = re.compile(r"(?im)^[^\w\n]*(?:copyright|\(c\)|©)[^\n]{0,200}$")
_SAYS_MORE = re.compile(
    r"confidential|proprietary|commercial|licen[cs]e|permi|may |not |rights reserved", re.IGNORECASE
)
# texts that are not SPDX's to the letter
_TITLES = tuple(
    (re.compile(pattern, re.IGNORECASE), license_id)
    for pattern, license_id in (
        (r"\AServer Side Public License\b", "SSPL-1.0"),
        (r"\ABusiness Source License 1\.1\b", "BUSL-1.1"),
        (r"\AElastic License 2\.0\b", "Elastic-2.0"),
    )
)
_GNU_TITLE = re.compile(r"(?m)^[ \t]*GNU (AFFERO |LESSER |LIBRARY )?GENERAL PUBLIC LICENSE\s+Version (\d(?:\.\d)?)")
# what gives or takes rights has one of these words; prose about licences mostly has none
_GIVES = re.compile(
    r"permi[st]|warrant|grant|waive|redistribut|public domain|freely|free (?:to|of|use)|do what|do good|as[- ]is\b"
    r"|(?:may|can) (?:be|not|copy|use|distribute|sell)|autoris|lizenz|许可",
    re.IGNORECASE,
)
# a variant with its owner's name is nearer to a shortened text than the original: Apache's without its appendix
_NAMED_VARIANTS = {"Pixar": ("pixar", "Apache-2.0")}

_Match = tuple[Conjuncts, float] | None


@dataclass(frozen=True)
class Identified:
    """What a text is worth: licences that all hold (empty: it is none that is known), and the least score of a match.

    A text that restricts without being a known licence holds as ``LicenseRef-restrictive`` or a closer name.
    """

    licenses: Conjuncts
    score: float


def text_key(text: str) -> str:
    """Equal for texts that differ in case, white space and copyright lines alone: each is identified once."""
    plain = _COPYRIGHT_LINE.sub(lambda line: line[0] if _SAYS_MORE.search(line[0]) else "", text)
    return hashlib.sha256(" ".join(plain.lower().split()).encode("utf-8", "replace")).hexdigest()


def identify(text: str) -> Identified:
    """The licences of a text: of its tags, of the whole, of its title, of its sections, or of its customary words."""
    tags = spdx_tags(text)
    plain = " ".join(text.split())
    lowered = plain.lower()
    if tags and len(plain) < _SHORTEST_SECTION * 2:
        return Identified(tags, 1.0)
    whole = _match(text)
    sure = restrictions(lowered, surely=True)
    gnu = {_gnu_of_title(title) for title in _GNU_TITLE.finditer(text)}
    if gnu:
        # the titles of these texts are sure, and what stands beside them has customary words
        score = whole[1] if whole and gnu.issuperset(whole[0]) else MIN_SCORE
        return Identified(conjoined(tuple(gnu), () if score > SURELY_ALONE else permissions(lowered)), score)
    sections = _matched_sections(text, whole)
    parts = [found for _, found in sections if found]
    if whole and len(parts) > 1:
        whole = None  # a text of several licences is like none of them, and most like what is as long
    if whole:
        # the words of the licence itself are no restriction beside it; beside a short one others may stand
        others = () if whole[1] > SURELY_ALONE or _is_restrictive(whole[0]) else notices(text)
        added = () if _is_restrictive(whole[0]) else sure
        return Identified(conjoined(whole[0], others, added), whole[1])
    titled = next((license_id for pattern, license_id in _TITLES if pattern.search(plain)), None)
    if titled:
        return Identified(conjoined((titled,), sure), MIN_SCORE)
    rest = "\n".join(section for section, found in sections if not found) if sections else text
    licenses = conjoined(*(found[0] for found in parts), notices(rest), tags)
    if licenses:
        least = min((score for _, score in parts), default=MIN_SCORE)
        return Identified(conjoined(licenses, sure), least)
    return Identified(restrictions(lowered, surely=False), 0.0)


def _matched_sections(text: str, whole: tuple[Conjuncts, float] | None) -> list[tuple[str, _Match]]:
    """The sections of a text with what each of them matches; none where the whole matches better than one."""
    pieces = list(_sections(text)) if not whole or whole[1] < SURELY_ALONE else []
    if len(pieces) < 2:
        return []
    sections: list[tuple[str, _Match]] = []
    for piece in pieces:
        found = _match(piece) if _GIVES.search(piece) else None
        if whole and found and found[1] <= whole[1]:
            return []
        sections.append((piece, found))
    return sections


def _gnu_of_title(title: re.Match[str]) -> str:
    family = {"AFFERO": "AGPL", "LESSER": "LGPL", "LIBRARY": "LGPL"}.get((title[1] or "").strip(), "GPL")
    return f"{family}-{title[2] if '.' in title[2] else title[2] + '.0'}-only"


def _is_restrictive(licenses: Conjuncts) -> bool:
    """Licences whose own text has the words of `restrictions`."""
    return any(
        re.search(r"GPL|GFDL|-NC|MPL-1|EPL|CDDL|BUSL|SSPL|Elastic|EUPL|OSL|CPAL|PolyForm", one) for one in licenses
    )


@lru_cache(maxsize=1024)  # each call reads all licences anew (0.15 s), and many texts have sections in common
def _match(text: str) -> _Match:
    import askalono

    if len(text.strip()) < 40:
        return None
    found = askalono.identify(text)
    if found.score < MIN_SCORE:
        return None
    name = str(found.name)
    if name in _NAMED_VARIANTS and _NAMED_VARIANTS[name][0] not in text.lower():
        name = _NAMED_VARIANTS[name][1]
    return conjuncts_of(name), float(found.score)


def _sections(text: str) -> Iterator[str]:
    """Pieces of a text that holds several licences, cut at rules, gaps and headings; short ones go with the next."""
    held, number = "", 0
    for piece in _SEPARATOR.split(text):
        held += piece + "\n"
        if len(held) >= _SHORTEST_SECTION:
            yield held
            held, number = "", number + 1
            if number == _MOST_SECTIONS:
                return
    if held.strip():
        yield held
