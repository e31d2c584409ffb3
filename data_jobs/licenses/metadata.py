"""Licences that package metadata declare, and maps of files to licences (REUSE.toml, Debian's copyright files)."""

import configparser
import json
import posixpath
import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data_jobs.licenses.expressions import UNPARSED, Conjuncts, conjoined, conjuncts_of, ids_of

_BSD = "BSD-2-Clause OR BSD-3-Clause"  # "BSD" alone: either is permissive, neither is known
# names that people write, in lower case without "the", "license", "version", commas
_NAMES = {
    "mit": "MIT",
    "mit expat": "MIT",
    "expat": "MIT",
    "mit x11": "MIT",
    "bsd": _BSD,
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "simplified bsd": "BSD-2-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software": "Apache-2.0",
    "apache software 2.0": "Apache-2.0",
    "asl 2.0": "Apache-2.0",
    "isc": "ISC",
    "isc (iscl)": "ISC",
    "python software foundation": "PSF-2.0",
    "psf": "PSF-2.0",
    "unlicense (unlicense)": "Unlicense",
    "unlicense": "Unlicense",
    "public domain": "LicenseRef-public-domain",
    "mozilla public 2.0 (mpl 2.0)": "MPL-2.0",
    "mozilla public 2.0": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "eclipse public 1.0": "EPL-1.0",
    "eclipse public - v 1.0": "EPL-1.0",
    "eclipse public 2.0": "EPL-2.0",
    "eclipse public - v 2.0": "EPL-2.0",
    "gpl": "GPL-1.0-or-later",
    "gplv2": "GPL-2.0-only",
    "gplv2+": "GPL-2.0-or-later",
    "gplv3": "GPL-3.0-only",
    "gplv3+": "GPL-3.0-or-later",
    "lgpl": "LGPL-2.0-or-later",
    "lgplv3": "LGPL-3.0-only",
    "lgplv3+": "LGPL-3.0-or-later",
    "agplv3": "AGPL-3.0-only",
    "gnu general public": "GPL-1.0-or-later",
    "gnu general public (gpl)": "GPL-1.0-or-later",
    "gnu general public v2 (gplv2)": "GPL-2.0-only",
    "gnu general public v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public v3 (gplv3)": "GPL-3.0-only",
    "gnu general public v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public v3 (lgplv3)": "LGPL-3.0-only",
    "gnu lesser general public v3 or later (lgplv3+)": "LGPL-3.0-or-later",
    "gnu library or lesser general public (lgpl)": "LGPL-2.0-or-later",
    "gnu affero general public v3": "AGPL-3.0-only",
    "gnu affero general public v3 or later (agplv3+)": "AGPL-3.0-or-later",
    "zlib/libpng": "Zlib",
    "academic free (afl)": "AFL-3.0",
    "other/proprietary": "LicenseRef-proprietary",
    "proprietary": "LicenseRef-proprietary",
    "commercial": "LicenseRef-proprietary",
    "unlicensed": "LicenseRef-proprietary",  # npm's word for: nobody may
}
_NOISE = re.compile(r"\b(?:the|licen[cs]e[sd]?|version|v(?=\d+\.\d))\b|,", re.IGNORECASE)
_ELSEWHERE = re.compile(r"see\b|^file:|^dual$|^custom$|^various$|^multiple$|^other$|^unknown$|^none$", re.IGNORECASE)


def named_license(text: str) -> Conjuncts:
    """The licences that a declaration means: an SPDX expression, or a name that people write.

    Empty when it only points to a file, `UNPARSED` when it says something that nobody here understands.
    """
    text = " ".join(text.split())
    if not text or _ELSEWHERE.search(text):
        return ()
    if len(text) > 300:  # the whole text where its name should be
        return ()
    plain = " ".join(_NOISE.sub(" ", text.lower()).split())
    if plain in _NAMES:
        return conjuncts_of(_NAMES[plain])
    try:
        return conjuncts_of(text)
    except ValueError:
        parts = [part.strip() for part in text.split("/")]
        chosen = any_of(parts) if len(parts) > 1 and all(parts) else ()  # an old word for OR
        return chosen if chosen and UNPARSED not in ids_of(chosen) else (UNPARSED,)


def any_of(names: list[str]) -> Conjuncts:
    """Licences that one may choose from."""
    understood = [named_license(name) for name in names]
    parts = [" AND ".join(f"({part})" for part in one) for one in understood if one]
    return conjuncts_of(" OR ".join(f"({part})" for part in parts)) if parts else ()


def declared(path: str, text: str) -> Conjuncts:
    """What a file of package metadata says; empty when it says nothing, or is none."""
    name = posixpath.basename(path)
    reader = _READERS.get(name) or (_gemspec if name.endswith(".gemspec") else None)
    if reader is None:
        return ()
    try:
        return reader(text)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, configparser.Error, ET.ParseError):
        return ()  # a fault of that file is told where the file itself is read


def _pyproject(text: str) -> Conjuncts:
    project = tomllib.loads(text)
    table = project.get("project") or {}
    licence = table.get("license")
    if licence is None:
        licence = (project.get("tool") or {}).get("poetry", {}).get("license")
    if isinstance(licence, dict):
        licence = licence.get("text")
    found = named_license(licence) if isinstance(licence, str) else ()
    return found or _classified(table.get("classifiers") or [])


def _classified(classifiers: Any) -> Conjuncts:
    names = [one.rsplit("::", 1)[1].strip() for one in classifiers if str(one).startswith("License ::") and "::" in one]
    return any_of([name for name in names if name != "OSI Approved"])


def _setup_cfg(text: str) -> Conjuncts:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(text)
    if not parser.has_section("metadata"):
        return ()
    section = parser["metadata"]
    return named_license(section.get("license", "")) or _classified(section.get("classifiers", "").splitlines())


def _package_json(text: str) -> Conjuncts:
    package = json.loads(text)
    licence = package.get("license") or package.get("licenses")
    entries = licence if isinstance(licence, list) else [licence]
    names = [one.get("type") if isinstance(one, dict) else one for one in entries]
    return any_of([name for name in names if isinstance(name, str)])


def _cargo(text: str) -> Conjuncts:
    manifest = tomllib.loads(text)
    package = manifest.get("package") or (manifest.get("workspace") or {}).get("package") or {}
    licence = package.get("license")
    return named_license(licence) if isinstance(licence, str) else ()


def _pom(text: str) -> Conjuncts:
    if "<!ENTITY" in text:
        return ()
    root = ET.fromstring(text)
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    return any_of([one.text or "" for one in root.iterfind(f"{space}licenses/{space}license/{space}name")])


def _gemspec(text: str) -> Conjuncts:
    found = re.search(r"^\s*\w+\.licenses?\s*=\s*(\[[^\]]*\]|[\"'][^\"'\n]*[\"'])", text, re.MULTILINE)
    return any_of(re.findall(r"[\"']([^\"'\n]+)[\"']", found[1])) if found else ()


def _headers(text: str) -> Conjuncts:
    """PKG-INFO of Python, DESCRIPTION of R: fields as in a letter."""
    head = text.split("\n\n", 1)[0]
    fields = {key.lower(): value for key, value in re.findall(r"^([\w-]+):[ \t]*(.*)$", head, re.MULTILINE)}
    classifiers = re.findall(r"^Classifier:[ \t]*(.*)$", head, re.MULTILINE)
    licence = fields.get("license-expression") or re.sub(
        r"\s*\+\s*file\s+LICEN[CS]E|\s*\|.*", "", fields.get("license", "")
    )
    return named_license(licence) or _classified(classifiers)


_READERS: Mapping[str, Callable[[str], Conjuncts]] = {
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "package.json": _package_json,
    "composer.json": _package_json,
    "Cargo.toml": _cargo,
    "pom.xml": _pom,
    "PKG-INFO": _headers,
    "METADATA": _headers,
    "DESCRIPTION": _headers,
}


@dataclass(frozen=True)
class FileRule:
    """Files of a folder that match a glob pattern are under these licences; of several rules the last one counts."""

    folder: str
    pattern: str
    licenses: Conjuncts
    override: bool = False  # also where the file itself says something else


def is_map(text: str) -> bool:
    """Whether a licence file is a machine-readable Debian copyright file, wherever it lies."""
    return re.match(r"\s*Format:\s*\S*copyright-format", text) is not None


def file_rules(path: str, text: str) -> Iterator[FileRule]:
    """The rules of a REUSE.toml or of a Debian copyright file; none when it is damaged."""
    folder, name = posixpath.split(path)
    if name == "REUSE.toml":
        yield from _reuse(folder, text)
    else:
        yield from _debian(posixpath.dirname(folder) if folder in ("debian", ".reuse") else folder, text)


def _reuse(folder: str, text: str) -> Iterator[FileRule]:
    try:
        annotations = tomllib.loads(text).get("annotations", [])
    except (ValueError, RecursionError):
        return
    for entry in annotations if isinstance(annotations, list) else []:
        if not isinstance(entry, dict):
            continue
        paths, ids = (
            value if isinstance(value, list) else [value]
            for value in (entry.get("path"), entry.get("SPDX-License-Identifier"))
        )
        licenses = conjoined(*(named_license(one) for one in ids if isinstance(one, str)))
        for pattern in paths:
            if isinstance(pattern, str) and licenses:
                yield FileRule(folder, pattern, licenses, entry.get("precedence") == "override")


def _debian(folder: str, text: str) -> Iterator[FileRule]:
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            elif ":" in line and not line.startswith("#"):
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        short = fields.get("license", "").split("\n", 1)[0]
        if "files" in fields and short:
            for pattern in fields["files"].split():
                yield FileRule(folder, pattern, _debian_license(short))


def _debian_license(short: str) -> Conjuncts:
    """Debian's short names: ``GPL-2+ and (Expat or BSD-3-clause)``."""
    text = re.sub(r"\b(Expat)\b", "MIT", short, flags=re.IGNORECASE)
    text = re.sub(r"\b([AL]?GPL-\d)(\.\d)?\+", lambda m: f"{m[1]}{m[2] or '.0'}-or-later", text, flags=re.IGNORECASE)
    text = re.sub(r"\b([AL]?GPL-\d)(?![.\d])", r"\1.0-only", text, flags=re.IGNORECASE)
    text = re.sub(r"\bpublic-domain\b", "LicenseRef-public-domain", text, flags=re.IGNORECASE)
    return named_license(text.replace(",", ""))
