"""Licence files, headers, inheritance, the policy and opt-outs."""

from pathlib import Path

import pytest

from data_jobs.licenses import identify, inherit, is_license_file, spdx_header
from data_jobs.policy import judge_licenses, judge_repository, load_opt_outs
from starloom.errors import UserError
from tests.data_jobs.source_trees import MIT


def test_licence_texts_are_matched_to_their_spdx_ids() -> None:
    assert identify(MIT) == "MIT"
    assert identify(Path("LICENSE").read_text()) == "Apache-2.0"
    assert identify("You may look at this file but you may not touch it.") is None


@pytest.mark.parametrize(
    ("path", "is_license"),
    [
        ("LICENSE", True),
        ("a/COPYING.LESSER", True),
        ("License-MIT.txt", True),
        ("UNLICENSE", True),
        ("LICENSES/MIT.txt", True),
        ("license.py", False),
        ("src/copying_files.md", False),
        ("README.md", False),
    ],
)
def test_licence_files_by_name(path: str, is_license: bool) -> None:
    assert is_license_file(path) is is_license


def test_files_inherit_the_nearest_licence_above_them() -> None:
    found = inherit([("r", "LICENSE", MIT), ("r", "vendored/x/COPYING", "All rights reserved, keep out of here.")])
    assert found.of("r", "a.py") == ("MIT",)
    assert found.of("r", "vendored/x/deep/a.py") == ("LicenseRef-unknown",)
    assert found.of("r", "vendored/a.py") == ("MIT",)
    assert found.of("other", "a.py") == ()


def test_headers_give_the_choice_that_is_permissive() -> None:
    assert spdx_header("// SPDX-License-Identifier: MIT\nint x;\n") == ("MIT",)
    assert spdx_header("# SPDX-License-Identifier: GPL-2.0-only OR MIT\n") == ("MIT",)
    assert spdx_header("/* SPDX-License-Identifier: Apache-2.0 AND GPL-3.0-only */") == ("Apache-2.0", "GPL-3.0-only")
    assert spdx_header("# SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note") == ("GPL-2.0",)
    assert spdx_header("x = 1\n" * 2000 + "# SPDX-License-Identifier: MIT\n") == ()


@pytest.mark.parametrize(
    ("licenses", "policy", "reason"),
    [
        (["MIT"], "permissive", None),
        (["MIT", "GPL-3.0"], "permissive", "license"),
        ([], "permissive", "no_license"),
        (None, "permissive", "no_license"),
        ([], "permissive_or_none", None),
        (["GPL-3.0"], "any", None),
        (["GPL-3.0"], ("GPL-3.0",), None),
        (["MIT"], ("GPL-3.0",), "license"),
    ],
)
def test_policy(licenses: list[str] | None, policy: str | tuple[str, ...], reason: str | None) -> None:
    verdict = judge_licenses(licenses, policy)
    assert (verdict.reason if verdict else None) == reason


def test_opt_outs_of_owners_and_repositories(tmp_path: Path) -> None:
    path = tmp_path / "opt-out.txt"
    path.write_text("# asked on 1 May\nAlice\nbob/tool  # only this one\n\n")
    entries = load_opt_outs(str(path))
    dropped = [
        name for name in ("alice/x", "ALICE/y", "bob/tool", "bob/other", "alicia/x") if judge_repository(name, entries)
    ]
    assert dropped == ["alice/x", "ALICE/y", "bob/tool"]
    path.write_text("a/b/c\n")
    with pytest.raises(UserError, match="neither an owner nor owner/repo"):
        load_opt_outs(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        load_opt_outs(str(tmp_path / "missing.txt"))
