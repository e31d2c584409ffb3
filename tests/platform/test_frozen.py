"""A change that makes every user's run stale is a decision: settings, fingerprints and file names are pinned."""

import json

from tests.platform.frozen import FROZEN, surface

REMEDY = "if it is meant, tell it in CHANGELOG.md and run python -m tests.platform.frozen"


def test_settings_fingerprints_and_file_names_are_those_that_users_have() -> None:
    pinned, now = json.loads(FROZEN.read_text()), json.loads(json.dumps(surface()))
    for part in sorted({*pinned, *now}):
        assert now[part] == pinned[part], f"{part}: {REMEDY}"
