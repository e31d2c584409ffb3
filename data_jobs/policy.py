"""Licence policy and opt-outs: one decision table per collected shard, no text is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from data_jobs.admission.encodings import NotTextError, decode
from data_jobs.licenses.expressions import PERMISSIVE, known_ids, unmet
from data_jobs.verdicts import OF_FILES, Verdict, decide
from starloom.config import Config
from starloom.errors import UserError
from starloom.kinds import Decisions
from starloom.opt_outs import entry_for, names_in
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


class PolicyConfig(Config):
    """Which licences may come in, and who has asked to stay out.

    ``permissive`` takes files whose licences can all be met with permissive ones (of an ``OR`` one side is enough),
    ``permissive_or_none`` files without any too, ``any`` everything; a list of SPDX ids takes files whose licences can
    all be met with those.
    """

    licenses: Literal["permissive", "permissive_or_none", "any"] | tuple[str, ...] = "permissive"
    opt_out: str | None = None  # file with a line per owner, group or owner/repo, links too; # begins a comment


def run(config: PolicyConfig, context: StepContext) -> Outcome:
    """Drop what the owners withdrew and what the licence policy does not allow."""
    opted_out = load_opt_outs(config.opt_out)
    policy = config.licenses if isinstance(config.licenses, str) else known_ids(config.licenses, setting="licenses")

    def verdict(row: Mapping[str, Any]) -> Verdict | None:
        return judge_repository(row["repo_name"], opted_out) or judge_licenses(
            row["licenses"], policy, row["license_source"]
        )

    return decide(context, verdict, columns=("repo_name", "licenses", "license_source"))


def judge_repository(repo_name: str, opted_out: frozenset[str]) -> Verdict | None:
    """Whether the repository, its owner or a group that it is in is on the list; case does not matter."""
    found = entry_for(repo_name, opted_out)
    return Verdict("opt_out", found) if found else None


def judge_licenses(
    licenses: Sequence[str] | None, policy: str | frozenset[str], source: str | None = None
) -> Verdict | None:
    """Whether the policy allows these licences; the detail tells which not, and who says that they hold."""
    if policy == "any":
        return None
    if not licenses:
        return None if policy == "permissive_or_none" else Verdict("no_license", "no licence file or header covers it")
    wrong = unmet(licenses, PERMISSIVE if isinstance(policy, str) else policy)
    if not wrong:
        return None
    return Verdict("license", f"{', '.join(wrong)}{f' by {source}' if source else ''}")


def load_opt_outs(path: str | None) -> frozenset[str]:
    """The entries of an opt-out file in lower case: owners, groups, ``owner/repo``; links and ``@owner`` too.

    Raises:
        UserError: the file is missing, or a line names no owner and no repository: nobody's wish is passed over.
    """
    if path is None:
        return frozenset()
    try:
        text = decode(Path(path).read_bytes()).content
    except (OSError, NotTextError) as error:
        raise UserError(f"opt_out = {path!r}: cannot be read ({error}); give a text file") from None
    return names_in(text, where=path)


def source_state(config: PolicyConfig) -> Any:
    """The opt-outs themselves: a new entry makes the step, and the corpus after it, stale."""
    return sorted(load_opt_outs(config.opt_out))


STEP = Step(
    config=PolicyConfig,
    run=run,
    produces=Decisions.kind,
    version=2,
    source_state=source_state,
    consumes=OF_FILES,
)

if __name__ == "__main__":
    main(STEP)
