"""Licence policy and opt-outs: one decision table per collected shard, no text is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from data_jobs.licenses import PERMISSIVE
from data_jobs.verdicts import Verdict, decide
from starloom.config import Config
from starloom.errors import UserError
from starloom.kinds import Decisions
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


class PolicyConfig(Config):
    """Which licences may come in, and who has asked to stay out.

    ``permissive`` takes files whose licences are all permissive, ``permissive_or_none`` files without any too, ``any``
    everything; a list of SPDX ids takes files whose licences are all in it.
    """

    licenses: Literal["permissive", "permissive_or_none", "any"] | tuple[str, ...] = "permissive"
    opt_out: str | None = None  # file with a line per owner or owner/repo; # begins a comment


def run(config: PolicyConfig, context: StepContext) -> Outcome:
    """Drop what the owners withdrew and what the licence policy does not allow."""
    opted_out = load_opt_outs(config.opt_out)

    def verdict(row: Mapping[str, Any]) -> Verdict | None:
        return judge_repository(row["repo_name"], opted_out) or judge_licenses(row["licenses"], config.licenses)

    return decide(context, verdict, columns=("repo_name", "licenses"))


def judge_repository(repo_name: str, opted_out: frozenset[str]) -> Verdict | None:
    """Whether the repository's owner, or the repository itself, is on the list; case does not matter."""
    name = repo_name.lower()
    owner = name.partition("/")[0]
    found = next((entry for entry in (name, owner) if entry in opted_out), None)
    return Verdict("opt_out", found) if found else None


def judge_licenses(licenses: Sequence[str] | None, policy: str | Sequence[str]) -> Verdict | None:
    """Whether the policy allows these licences."""
    if policy == "any":
        return None
    if not licenses:
        return None if policy == "permissive_or_none" else Verdict("no_license", "no licence file or header covers it")
    allowed = PERMISSIVE if isinstance(policy, str) else frozenset(policy)
    refused = [license_id for license_id in licenses if license_id not in allowed]
    return Verdict("license", ", ".join(refused)) if refused else None


def load_opt_outs(path: str | None) -> frozenset[str]:
    """The entries of an opt-out file in lower case.

    Raises:
        UserError: the file is missing, or a line is neither ``owner`` nor ``owner/repo``.
    """
    if path is None:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"opt_out = {path!r}: cannot be read ({error}); give a text file") from None
    entries = set()
    for number, line in enumerate(lines, start=1):
        entry = line.partition("#")[0].strip().lower().rstrip("/")
        if entry.count("/") > 1 or any(character.isspace() for character in entry):
            raise UserError(f"{path}:{number}: {entry!r} is neither an owner nor owner/repo; write one to a line")
        if entry:
            entries.add(entry)
    return frozenset(entries)


def source_state(config: PolicyConfig) -> Any:
    """The opt-outs themselves: a new entry makes the step, and the corpus after it, stale."""
    return sorted(load_opt_outs(config.opt_out))


STEP = Step(config=PolicyConfig, run=run, produces=Decisions.kind, source_state=source_state)

if __name__ == "__main__":
    main(STEP)
