"""E-mail addresses. Spared: documentation domains, ``git@host:`` URLs, image names such as ``icon@2x.png``."""

import re
from collections.abc import Iterator

from data_jobs.personal_data.findings import Finding

_LOCAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+\-]*[A-Za-z0-9_+\-])?\Z")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+([A-Za-z]{2,18})(?![A-Za-z0-9_(-])")
_LOCAL_CHARACTERS = 64
_GENERIC = (
    "com org net edu gov mil int info biz name io dev app ai tech cloud online site xyz me tv co club shop blog email "
    "network systems software solutions digital agency studio science technology company engineering academy group "
    "design work live world page wiki space host pro jobs museum travel coop aero cat mobi tel asia post arpa"
)
_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd "
    "cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gd ge "
    "gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh "
    "ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw "
    "mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb "
    "sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk "
    "us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
TOP_LEVEL = frozenset(f"{_GENERIC} {_COUNTRIES}".split())
# RFC 2606 and RFC 6761, and what documentation writes in their place
_DOCUMENTATION = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost)(?:\.|$)|^(?:domain|host|email|yourdomain|mydomain|company|foo|bar)\.\w+$",
    re.IGNORECASE,
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
    domain = _DOMAIN.match(text, at + 1)
    if domain is None or domain[1].lower() not in TOP_LEVEL or _DOCUMENTATION.search(domain[0]):
        return None
    before = text[max(0, at - _LOCAL_CHARACTERS) : at]
    local = _LOCAL.search(before)
    if local is None:
        return None
    name = local[0]
    if name == "git" and text[domain.end() : domain.end() + 1] in ":/":
        return None
    if text[: at - len(name)].endswith("://") or _password_of_url(text, at - len(name)):
        return None
    start = at - len(name)
    return Finding(start, domain.end(), "email", text[start : domain.end()])


def _password_of_url(text: str, start: int) -> bool:
    """Whether the part before the ``@`` is the password of ``scheme://user:password@host``."""
    line = text[max(0, start - 80) : start]
    return line.endswith(":") and "://" in line.rsplit(" ", 1)[-1]
