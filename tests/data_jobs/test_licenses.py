"""Licence files, headers, inheritance, the policy and opt-outs."""

from pathlib import Path

import pytest

from data_jobs.licenses.coverage import UNKNOWN
from data_jobs.licenses.expressions import PERMISSIVE, UNPARSED, allows, conjuncts_of, known_ids, parse_or_unparsed
from data_jobs.licenses.files import evidence_kind
from data_jobs.licenses.headers import header_notices, spdx_tags
from data_jobs.licenses.metadata import declared
from data_jobs.licenses.texts import Identified, identify, text_key
from data_jobs.policy import judge_licenses, judge_repository, load_opt_outs
from data_jobs.sources.entries import LicenseFile
from data_jobs.sources.survey import Surveyor, coverage_of, resolved
from starloom.artifact import ArtifactWriter
from starloom.errors import UserError
from tests.data_jobs.source_trees import MIT

APACHE = Path("LICENSE").read_text(encoding="utf-8")
BSD = """Redistribution and use in source and binary forms, with or without modification, are permitted provided that
the following conditions are met: Redistributions of source code must retain the above notice. Neither the name of the
copyright holder nor the names of its contributors may be used to endorse or promote products."""
GPL_NOTICE = """/* x.c
 * This program is free software; you can redistribute it and/or modify it under the terms of the GNU General Public
 * License as published by the Free Software Foundation; either version 2 of the License, or (at your option) any later
 * version.
 */
int x;
"""


@pytest.mark.parametrize(
    ("expression", "conjuncts"),
    [
        ("mit", ("MIT",)),
        ("(MIT OR Apache-2.0) AND GPL-3.0-only", ("Apache-2.0 OR MIT", "GPL-3.0-only")),
        ("MIT OR Apache-2.0 AND GPL-3.0-only", ("MIT OR (Apache-2.0 AND GPL-3.0-only)",)),
        ("gpl-2.0+ with classpath-exception-2.0", ("GPL-2.0-or-later WITH Classpath-exception-2.0",)),
        ("GPL-2.0", ("GPL-2.0-only",)),
        ("LicenseRef-Acme and MIT", ("LicenseRef-Acme", "MIT")),
    ],
)
def test_expressions_are_taken_apart_by_the_precedence_of_spdx(expression: str, conjuncts: tuple[str, ...]) -> None:
    assert conjuncts_of(expression) == conjuncts
    assert conjuncts_of(" AND ".join(f"({one})" for one in conjuncts)) == conjuncts


@pytest.mark.parametrize("text", ["", "MIT AND", "(MIT", "MIT License", "Foo bar", "MIT/Apache-2.0", "x" * 5000])
def test_what_is_no_expression_is_never_permissive(text: str) -> None:
    with pytest.raises(ValueError, match="no SPDX expression"):
        conjuncts_of(text)
    assert not allows(parse_or_unparsed(text), PERMISSIVE)
    assert not allows((text or "?",), PERMISSIVE)  # a table may hold anything


def test_of_or_one_side_is_enough_and_of_and_every_side_is_needed() -> None:
    assert allows(conjuncts_of("GPL-3.0-only OR (MIT AND Apache-2.0 WITH LLVM-exception)"), PERMISSIVE)
    assert not allows(conjuncts_of("(MIT OR Apache-2.0) AND GPL-3.0-only"), PERMISSIVE)
    assert not allows(conjuncts_of("GPL-2.0-only WITH Classpath-exception-2.0"), PERMISSIVE)
    assert not allows(conjuncts_of("MIT WITH LicenseRef-commons-clause"), PERMISSIVE)
    assert allows(conjuncts_of("Apache-2.0+"), PERMISSIVE)
    assert allows(conjuncts_of("GPL-2.0-or-later"), frozenset({"GPL-2.0-only"}))
    assert not allows(conjuncts_of("GPL-2.0-only"), frozenset({"GPL-2.0-or-later"}))
    assert known_ids(["mit", "LicenseRef-x"], setting="licenses") == {"MIT", "LicenseRef-x"}
    with pytest.raises(UserError, match="licenses: 'MITT' is no SPDX id"):
        known_ids(["MITT"], setting="licenses")


@pytest.mark.parametrize(
    ("text", "licenses"),
    [
        ("// SPDX-License-Identifier: MIT\nint x;\n", ("MIT",)),
        ("/* SPDX-License-Identifier: Apache-2.0 AND GPL-3.0-only */", ("Apache-2.0", "GPL-3.0-only")),
        ("# SPDX-License-Identifier: MIT OR\n#   Apache-2.0\nx = 1\n", ("Apache-2.0 OR MIT",)),
        ("// spdx-license-identifier: (mit or\n//  apache-2.0)\n//   AND isc\n", ("Apache-2.0 OR MIT", "ISC")),
        ("# SPDX-License-Identifier: MIT\nx = 1\n# SPDX-License-Identifier: ISC\n", ("ISC", "MIT")),
        ("x = 1\n" * 2000 + "# SPDX-License-Identifier: MIT\n", ("MIT",)),
        ("# SPDX-License-Identifier: (MIT\n", (UNPARSED,)),
        ("// Copyright A. All rights reserved. SPDX-License-Identifier: MIT-0\n", ("MIT-0",)),
        ("<!-- SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception -->", ("Apache-2.0 WITH LLVM-exception",)),
        ('print("SPDX-License-Identifier: GPL-3.0-only")\n', ()),
        ("Write `SPDX-License-Identifier: MIT` at the top.\n", ()),
        ("# SPDX-License-Identifier: NONE\n", ()),
    ],
)  # fmt: skip
def test_all_tags_of_a_file_hold_wherever_they_stand(text: str, licenses: tuple[str, ...]) -> None:
    assert spdx_tags(text) == licenses


@pytest.mark.parametrize(
    ("text", "licenses"),
    [
        (GPL_NOTICE, ("GPL-2.0-or-later",)),
        ("# This file is licensed under the GNU LGPL v2.1\nimport y\n", ("LGPL-2.1-only",)),
        ('// Licensed under the Apache License, Version 2.0 (the "License");\npackage x\n', ("Apache-2.0",)),
        ("/* Copyright Acme. Proprietary and confidential. */\nint x;\n", ("LicenseRef-proprietary",)),
        (
            "// This is part of Forge, which may be used under the terms of either the BSD License or the GNU General\n"
            "// Public License (GPL) Version 2.\nvar x;\n",
            ("BSD-3-Clause OR GPL-2.0-only",),
        ),
        (
            "# This program is free software; it may be used under the same terms as Perl itself.\nuse strict;\n",
            ("Artistic-1.0-Perl OR GPL-1.0-or-later",),
        ),
        ("# It can be combined with software that is released under the GPL.\nx = 1\n", ()),
        ('"""Counts licences of packages, GPL ones too."""\n', ()),
        ("x = 1\n# This program is free software under the terms of the GNU General Public License\n", ()),
    ],
)
def test_notices_of_the_opening_comment_hold(text: str, licenses: tuple[str, ...]) -> None:
    assert header_notices(text) == licenses


def test_licence_texts_are_matched_to_their_spdx_ids() -> None:
    assert identify(MIT).licenses == ("MIT",)
    assert identify(APACHE).licenses == ("Apache-2.0",)
    # as many projects ship it, without its appendix: another licence with somebody's name in it is nearer
    assert identify(APACHE[: APACHE.index("END OF TERMS")]).licenses == ("Apache-2.0",)
    assert identify(APACHE).score > 0.9
    assert identify("The licence of this project is in the file ../LICENSE.txt.") == Identified((), 0.0)


def test_text_with_several_licences_gives_all_of_them() -> None:
    several = (
        f"{MIT}\n\n\nThe documentation is licensed under Creative Commons CC BY 3.0.\n\n\nzlib is in src/:\n\n{BSD}"
    )
    assert identify(several).licenses == ("BSD-3-Clause", "CC-BY-3.0", "MIT")


@pytest.mark.parametrize(
    ("addition", "name"),
    [
        ('"Commons Clause" License Condition: no right to Sell the Software is granted.', "commons-clause"),
        ("You may not use the software for commercial use of any kind.", "noncommercial"),
        ("You may not use it to train machine learning models.", "no-training"),
        ("Only for academic or research use.", "evaluation"),
        ("Have fun.", ""),
    ],
)  # fmt: skip
def test_permissive_text_that_takes_something_away_is_not_permissive(addition: str, name: str) -> None:
    found = identify(f"{MIT}\n{addition}\n").licenses
    assert "MIT" in found
    assert not name or f"LicenseRef-{name}" in found
    assert allows(found, PERMISSIVE) is not bool(name)


def test_equal_texts_of_other_owners_are_identified_once() -> None:
    other = MIT.replace("2020 Somebody", "2024 Somebody Else").replace("\n\n", "\n\n\n").upper()
    assert text_key(other) == text_key(MIT)
    assert text_key(MIT + "Not for commercial use.") != text_key(MIT)
    proprietary = "Copyright (c) 2020 Acme. All rights reserved. Confidential.\n"
    assert text_key(proprietary) != text_key("")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("LICENSE", "text"),
        ("a/COPYING.LESSER", "text"),
        ("COPYING3", "text"),
        ("gpl-2.0.txt", "text"),
        ("GPL-LICENSE.txt", "text"),
        ("LICENSE_MIT", "text"),
        ("UNLICENSE", "text"),
        ("LICENSES/MIT.txt", "library"),
        ("REUSE.toml", "map"),
        ("debian/copyright", "map"),
        ("crates/a/Cargo.toml", "metadata"),
        ("tool.gemspec", "metadata"),
        ("README.md", "content"),
        ("license.py", None),
        ("licenses.json", None),
        ("src/README.md", None),
    ],
)
def test_files_that_tell_licences_by_name(path: str, kind: str | None) -> None:
    assert evidence_kind(path, 100) == kind


@pytest.mark.parametrize(
    ("path", "text", "licenses"),
    [
        ("pyproject.toml", '[project]\nlicense = "MIT OR Apache-2.0"\n', ("Apache-2.0 OR MIT",)),
        ("pyproject.toml", '[project]\nclassifiers = ["License :: OSI Approved :: MIT License"]\n', ("MIT",)),
        ("setup.cfg", "[metadata]\nlicense = BSD\n", ("BSD-2-Clause OR BSD-3-Clause",)),
        ("setup.cfg", "[metadata]\nlicense = Apache License, Version 2.0\n", ("Apache-2.0",)),
        ("package.json", '{"license": "UNLICENSED"}', ("LicenseRef-proprietary",)),
        ("package.json", '{"licenses": [{"type": "MIT"}, {"type": "GPL-2.0"}]}', ("GPL-2.0-only OR MIT",)),
        ("package.json", '{"license": "SEE LICENSE IN x"}', ()),
        ("Cargo.toml", '[package]\nlicense = "MIT/Apache-2.0"\n', ("Apache-2.0 OR MIT",)),
        ("pom.xml", "<p><licenses><license><name>Apache 2.0</name></license></licenses></p>", ("Apache-2.0",)),
        ("a.gemspec", "Gem::Specification.new do |s|\n  s.licenses = ['MIT', \"Ruby\"]\nend\n", ("MIT OR Ruby",)),
        ("DESCRIPTION", "Package: x\nLicense: MIT + file LICENSE\n", ("MIT",)),
        ("package.json", '{"license": 7}', ()),
        ("pyproject.toml", "no toml at [", ()),
        ("package.json", '{"license": "ask us"}', (UNPARSED,)),
    ],
)  # fmt: skip
def test_package_metadata_is_read(path: str, text: str, licenses: tuple[str, ...]) -> None:
    assert declared(path, text) == licenses


def covered(path: str, *files: tuple[str, str], text: str = "x = 1\n", scope: str = "here") -> tuple[str, ...]:
    """The licences of a file in a repository with these licence files."""
    kinds = ((name, evidence_kind(name, 1), content) for name, content in files)
    evidence = [LicenseFile("here", "r", name, kind, content) for name, kind, content in kinds if kind]
    said = [one for one in map(Surveyor(ArtifactWriter("/nowhere"), "texts").take, evidence) if one]
    texts = {text_key(content): identify(content) for _, content in files}
    told = [one for one in (resolved(each, texts) for each in said) if one]
    return coverage_of(told, {scope}, {}).of(scope, path, text).licenses


def test_files_inherit_the_nearest_licence_above_them() -> None:
    files = (("LICENSE", MIT), ("vendored/x/COPYING", "All rights reserved, keep out of here."))
    assert covered("a.py", *files) == ("MIT",)
    assert covered("vendored/x/deep/a.py", *files) == ("LicenseRef-proprietary",)
    assert covered("vendored/a.py", *files) == ("MIT",)
    assert covered("a.py", *files, scope="elsewhere") == ()


def test_unknown_text_covers_itself_and_nothing_else() -> None:
    files = (("LICENSE", MIT), ("docs/license.rst", "BSD licence\n===========\n\n.. include:: ../LICENSE.txt\n"))
    assert covered("docs/index.rst", *files) == ("MIT",)
    assert covered("docs/license.rst", *files) == (UNKNOWN,)
    assert covered("a.py", ("LICENSE", "See the project page.")) == ()


@pytest.mark.slow
def test_texts_beside_each_other_all_hold_unless_metadata_say_how() -> None:
    texts = (("LICENSE-MIT", MIT), ("LICENSE-GPL", "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n"))
    assert covered("a.rs", *texts) == ("GPL-3.0-only", "MIT")
    assert covered("a.rs", *texts, ("Cargo.toml", '[package]\nlicense = "MIT OR GPL-3.0-or-later"\n')) == (
        "GPL-3.0-or-later OR MIT",
    )
    assert covered("a.rs", ("LICENSE", MIT), ("package.json", '{"license": "GPL-3.0-only"}')) == ("GPL-3.0-only", "MIT")


COMMON = Path("/usr/share/common-licenses")


@pytest.mark.skipif(not COMMON.is_dir(), reason="needs Debian's texts of common licences")
def test_text_of_two_long_licences_is_not_taken_for_a_third() -> None:
    bsd, gpl = (COMMON.joinpath(name).read_text(encoding="utf-8") for name in ("BSD", "GPL-2"))
    rule = f"\n\n{'-' * 60}\n\n"
    forge = rule.join(["You may use this under the BSD License or the GPL.", bsd, gpl])
    assert covered("a.js", ("LICENSE", forge)) == ("BSD-3-Clause", "GPL-2.0-only")
    metadata = ("package.json", '{"license": "(BSD-3-Clause OR GPL-2.0)"}')
    assert covered("a.js", ("LICENSE", forge), metadata) == ("BSD-3-Clause OR GPL-2.0-only",)


def test_metadata_of_a_wheel_speak_for_all_of_it() -> None:
    metadata = ("x-1.dist-info/METADATA", "Metadata-Version: 2.4\nName: x\nLicense-Expression: MIT\n\nWords\n")
    assert covered("x/a.py", metadata) == ("MIT",)
    assert covered("x/a.py", metadata, ("x-1.dist-info/licenses/LICENSE", MIT)) == ("MIT",)


@pytest.mark.slow
def test_library_of_texts_speaks_where_nothing_else_does() -> None:
    library = (("LICENSES/MIT.txt", MIT), ("LICENSES/Apache-2.0.txt", APACHE))
    assert covered("a.py", *library) == ("Apache-2.0", "MIT")
    assert covered("a.py", *library, ("LICENSE", MIT)) == ("MIT",)


@pytest.mark.slow
def test_maps_of_files_reach_the_files_that_they_name() -> None:
    reuse = """version = 1
[[annotations]]
path = "assets/**"
SPDX-License-Identifier = "CC0-1.0"
[[annotations]]
path = ["vendor/*"]
precedence = "override"
SPDX-License-Identifier = ["GPL-2.0-only", "MIT"]
"""
    files = (("REUSE.toml", reuse), ("LICENSE", MIT))
    tagged = "# SPDX-License-Identifier: ISC\n"
    assert covered("assets/deep/a.svg", *files) == ("CC0-1.0",)
    assert covered("assets/a.py", *files, text=tagged) == ("ISC",)
    assert covered("vendor/x/a.py", *files, text=tagged) == ("GPL-2.0-only", "MIT")
    assert covered("src/a.py", *files) == ("MIT",)
    debian = "Format: x\n\nFiles: *\nCopyright: a\nLicense: GPL-2+\n text\n\nFiles: lib/*\nLicense: Expat\n"
    assert covered("a.c", ("debian/copyright", debian)) == ("GPL-2.0-or-later",)
    assert covered("lib/a.c", ("debian/copyright", debian)) == ("MIT",)


def test_file_with_a_known_licence_text_needs_no_telling_name() -> None:
    assert covered("a.py", ("TERMS.txt", MIT)) == ("MIT",)
    assert covered("a.py", ("README.md", "# Tool\n\nIt helps you to do things.\n")) == ()


@pytest.mark.parametrize(
    ("licenses", "policy", "reason"),
    [
        (["MIT"], "permissive", None),
        (["MIT", "GPL-3.0"], "permissive", "license"),
        ([], "permissive", "no_license"),
        (None, "permissive", "no_license"),
        ([], "permissive_or_none", None),
        (["GPL-3.0"], "any", None),
        (["GPL-3.0-only"], frozenset({"GPL-3.0-only"}), None),
        (["MIT"], frozenset({"GPL-3.0-only"}), "license"),
        (["GPL-3.0-only OR MIT"], frozenset({"GPL-3.0-only"}), None),
        (["LicenseRef-unknown"], "permissive_or_none", "license"),
    ],
)
def test_policy(licenses: list[str] | None, policy: str | frozenset[str], reason: str | None) -> None:
    verdict = judge_licenses(licenses, policy)
    assert (verdict.reason if verdict else None) == reason


def test_opt_outs_are_understood_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "opt-out.txt"
    lines = ["# asked on 1 May", "Alice", "bob/tool  # only this one", "", "@carol", "https://github.com/Dave"]
    lines += ["erin/repo.git", "frank/*", "git@gitlab.com:group/sub/proj.git", "big/group/"]
    lines += ["- https://github.com/gil/x/tree/main/docs"]
    gone = ["alice/x", "ALICE/y", "bob/tool", "carol/z", "dave/q", "erin/repo", "frank/w", "group/sub/proj", "gil/x"]
    gone += ["big/group/a/b"]
    kept = ["bob/other", "alicia/x", "erin/other", "group/sub/other", "gil/y", "big/other"]
    plain = "\n".join(lines)
    for encoded in (plain.encode(), plain.replace("\n", "\r\n").encode("utf-8-sig"), plain.encode("utf-16")):
        path.write_bytes(encoded)
        entries = load_opt_outs(str(path))
        assert [name for name in gone + kept if judge_repository(name, entries)] == gone


@pytest.mark.parametrize("line", ["alice bob", "alice, bob", "please leave me out", "a//b", "x/y?z"])
def test_line_of_an_opt_out_list_that_names_nobody_is_told(tmp_path: Path, line: str) -> None:
    path = tmp_path / "opt-out.txt"
    path.write_text(f"alice\n{line}\n")
    with pytest.raises(UserError, match=r"opt-out.txt:2: .* is neither an owner nor owner/repo"):
        load_opt_outs(str(path))
