"""Licence policy and opt-outs: one decision table per collected shard, no text is read."""

from typing import Any, Literal

from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main


class PolicyConfig(Config):
    """Which licences may come in, and who has asked to stay out.

    ``permissive`` takes files whose licences are all permissive, ``permissive_or_none`` files without any too, ``any``
    everything; a list of SPDX ids takes files whose licences are all in it.
    """

    licenses: Literal["permissive", "permissive_or_none", "any"] | tuple[str, ...] = "permissive"
    opt_out: str | None = None  # file with a line per owner or owner/repo; # begins a comment


def run(config: PolicyConfig, context: StepContext) -> Outcome:
    """Drop what the owners withdrew and what the licence policy does not allow."""
    from data_jobs.policing import apply_policy

    return apply_policy(config, context)


def source_state(config: PolicyConfig) -> Any:
    """The opt-outs themselves: a new entry makes the step, and the corpus after it, stale."""
    from data_jobs.policing import load_opt_outs

    return sorted(load_opt_outs(config.opt_out))


STEP = Step(config=PolicyConfig, run=run, produces="decisions", source_state=source_state)

if __name__ == "__main__":
    main(STEP)
