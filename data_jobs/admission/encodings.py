"""The text of a file's bytes: UTF-8, UTF-16 and UTF-32 by their marks, older encodings where there is no doubt.

charset-normalizer proposes encodings in which the bytes make sense. One of them is taken when it gives text of one
script in that script's common characters: wrong ones give rare characters, signs inside of words, two scripts in one.
"""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass

SAMPLE_BYTES = 64 << 10  # of the lines that are not ASCII
MOST_MESS = 0.5  # charset-normalizer's own measure of how improbable the characters are beside each other
MARGIN = 0.05  # how much more plausible than others an encoding must be
SURE = 0.85  # the share of characters beyond ASCII that must be plausible

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "utf-16"),
)


@dataclass(frozen=True)
class Text:
    """A file's text, without a byte order mark, and the encoding that it was in."""

    content: str
    encoding: str


class NotTextError(ValueError):
    """The bytes are no text of any encoding that is sure; `reason` is for the list of what was dropped."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def decode(content: bytes, declared: str | None = None) -> Text:
    """The text of some bytes; `declared` is the encoding that their source names.

    Raises:
        NotTextError: they are binary, or nothing is sure.
    """
    for mark, codec, name in _MARKS:
        if content.startswith(mark):
            return Text(_plain(_strictly(content, codec)), name)
    if b"\0" in content:
        return Text(_plain(_strictly(content, _wide(content))), "utf-16")
    try:
        return Text(content.decode("utf-8"), "utf-8")
    except UnicodeDecodeError as error:
        place = error.start
    if declared and (text := _declared(content, declared)) is not None:
        return text
    encoding = guessed(content)
    if encoding is None:
        raise NotTextError("unknown_encoding", f"no UTF-8 at byte {place}, and no other encoding is sure")
    return Text(_plain(content.decode(encoding)), encoding)


def _strictly(content: bytes, codec: str) -> str:
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        raise NotTextError(
            "not_text", f"{codec} by its byte order mark, and no such text at byte {error.start}"
        ) from None


def _wide(content: bytes) -> str:
    """UTF-16 without a mark: nearly every second byte of source code is zero then."""
    pairs = len(content) // 2
    if len(content) % 2 == 0 and pairs >= 8:
        for codec, zeros, others in (
            ("utf-16-le", content[1::2], content[::2]),
            ("utf-16-be", content[::2], content[1::2]),
        ):
            if zeros.count(0) > 0.8 * pairs and others.count(0) == 0:
                return codec
    raise NotTextError("binary", "holds a NUL byte")


def _plain(text: str) -> str:
    if "\0" in text:
        raise NotTextError("binary", "holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise NotTextError("not_text", "holds half of a surrogate pair")
    return text.removeprefix("\ufeff")


def _declared(content: bytes, name: str) -> Text | None:
    try:
        codec = codecs.lookup(name)
        text = codec.decode(content, "strict")[0] if codec._is_text_encoding else None
    except (LookupError, UnicodeError, ValueError, TypeError):
        return None
    return Text(_plain(text), codec.name) if isinstance(text, str) else None


def guessed(content: bytes) -> str | None:
    """The older encoding that some bytes are in, as Python names it; None when that is not sure."""
    from charset_normalizer import from_bytes

    sample = b"\n".join(line for line in content.split(b"\n") if not line.isascii())[:SAMPLE_BYTES]
    found = from_bytes(sample, cp_isolation=list(_JUDGES), threshold=MOST_MESS, preemptive_behaviour=False)
    mess = {name: match.chaos for match in found for name in (match.encoding, *match.could_be_from_charset)}
    scores: list[tuple[float, str, str]] = []
    for encoding, judge in _JUDGES.items():
        # a lone sign (10 µs) is a mess to charset-normalizer in any Latin encoding
        if encoding in mess or encoding == "cp1252":
            try:
                text = sample.decode(encoding)
                content.decode(encoding)
            except UnicodeDecodeError:
                continue
            score = judge(text, encoding)
            if score >= SURE:
                scores.append((score - mess.get(encoding, MOST_MESS) / 2, encoding, text))
    if not scores:
        return None
    best, encoding, text = max(scores, key=lambda one: one[0])  # of equal ones the first in the order of the table
    rivals = {name for score, name, other in scores if score > best - MARGIN and other != text} - {encoding}
    # of the Latin ones the western is nearly always meant; between any others two readings are no reading
    return encoding if not rivals or (encoding == "cp1252" and rivals <= _CENTRAL_EUROPEAN) else None


_CENTRAL_EUROPEAN = {"cp1250", "iso8859_2"}
_WORD = re.compile(r"[^\W\d_]+")
_TYPOGRAPHY = frozenset("©®°±«»§¶·€“”‘’‚„–—…•™µ¿¡×÷ºª´¨¹²³½¼¾¢£¥¬¦¸†‡‰‹›\xa0\xad")
_INSIDE = frozenset("·’\xad")  # may stand between two letters
_WESTERN = frozenset("äöüÄÖÜßéèêëàâáåãçñóòôõøíìîïúùûýÿœæÉÈÊÀÂÁÅÃÇÑÓÔÕØÍÎÚÛŒÆšžŠŽ")
_CENTRAL = frozenset("ąćęłńóśźżĄĆĘŁŃÓŚŹŻáčďéěíňřšťúůýžÁČĎÉĚÍŇŘŠŤÚŮÝŽőűŐŰöüÖÜäľĺŕôâîăţşşț")


def _latin(letters: frozenset[str]) -> Callable[[str, str], float]:
    def judge(text: str, encoding: str) -> float:
        high = good = 0
        for at, character in enumerate(text):
            if character < "\x80":
                continue
            high += 1
            before, after = text[at - 1 : at], text[at + 1 : at + 2]
            if character in letters:
                good += 1
            elif character in _TYPOGRAPHY:
                good += character in _INSIDE or not (before.isalpha() and after.isalpha())
        # in a language that is written in Latin letters most of them are those of ASCII
        words = "".join(word for word in _WORD.findall(text) if not word.isascii())
        few = letters is _WESTERN and len(words) <= 2  # 'é' alone
        if not few and sum(character >= "\x80" for character in words) * 2 > len(words):
            return 0.0
        return good / high if high else 0.0

    return judge


def _cyrillic(text: str, encoding: str) -> float:
    letters = [character for character in text if character >= "\x80"]
    good = sum("\u0400" <= character <= "\u045f" for character in letters)
    # the wrong one of two encodings turns small letters into capitals
    small = sum(character.islower() for character in letters)
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    mixed = sum(any(c < "\x80" for c in word) for word in words)
    shape = sum(word[1:] == word[1:].lower() or word.isupper() for word in words) / max(1, len(words))
    vowels = sum(character in "аеёиоуыэюяіїєАЕЁИОУЫЭЮЯІЇЄ" for character in letters)
    if not letters or mixed * 4 > len(words) or small * 3 < len(letters) or vowels * 5 < len(letters):
        return 0.0
    return float(good / len(letters) * shape)


_COMMON: dict[str, Callable[[str], bool]] = {
    # the common half of each standard: level 1 of JIS, of GB 2312, of Big5, the syllables of KS X 1001
    "cp932": lambda c: _code(c, "shift_jis") is not None and (0x889F <= (_code(c, "shift_jis") or 0) <= 0x9872),
    "euc_jp": lambda c: 0xB0A1 <= (_code(c, "euc_jp") or 0) <= 0xCFD3,
    "gb18030": lambda c: 0xB0A1 <= (_code(c, "gb2312") or 0) <= 0xD7F9,
    "big5": lambda c: 0xA440 <= (_code(c, "big5") or 0) <= 0xC67E,
    "cp949": lambda c: "\uac00" <= c <= "\ud7a3" and (_code(c, "euc_kr") or 1 << 16) < 1 << 16,
}


def _code(character: str, encoding: str) -> int | None:
    try:
        return int.from_bytes(character.encode(encoding), "big")
    except UnicodeEncodeError:
        return None


def _ideographic(text: str, encoding: str) -> float:
    high = good = kana = touching = 0
    for at, character in enumerate(text):
        if character < "\x80":
            continue
        high += 1
        if "\u3040" <= character <= "\u30ff":
            kana += 1
        common = "\u3000" <= character <= "\u303f" or "\uff00" <= character <= "\uff60"
        if "\u3040" <= character <= "\u30ff":
            common = encoding in ("cp932", "euc_jp")
        good += common or _COMMON[encoding](character)
        neighbours = text[at - 1 : at] + text[at + 1 : at + 2]
        touching += any(c.isascii() and c.isalpha() for c in neighbours)
    if high < 2 or touching * 3 > high:
        return 0.0
    return float(good / high)


_JUDGES: dict[str, Callable[[str, str], float]] = {
    "cp1252": _latin(_WESTERN),
    "cp932": _ideographic,
    "gb18030": _ideographic,
    "euc_jp": _ideographic,
    "big5": _ideographic,
    "cp949": _ideographic,
    "cp1251": _cyrillic,
    "koi8_r": _cyrillic,
    "cp1250": _latin(_CENTRAL),
    "iso8859_2": _latin(_CENTRAL),
}
