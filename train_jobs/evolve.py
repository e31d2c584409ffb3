"""Evolve instructions: a language model makes seed instructions harder and answers them (WizardCoder)."""

from collections.abc import Sequence

from pydantic import Field

from starloom.config import Config, runtime
from starloom.step import Outcome, Step, StepContext, main


class EvolveConfig(Config):
    """What is evolved, and by which endpoint. The key is taken from the environment and is written nowhere."""

    instructions: list[str] = Field(min_length=1)  # files of JSON lines, or patterns: {"instruction": "..."} each
    url: str = Field(min_length=1)  # any OpenAI-compatible one, such as http://127.0.0.1:8000/v1
    model: str = Field(min_length=1)
    rounds: int = Field(3, ge=1)
    temperature: float = Field(0.7, ge=0, le=2)
    max_tokens: int = Field(1024, gt=0)
    seed: int = 0
    api_key_variable: str = runtime("OPENAI_API_KEY")
    at_once: int = runtime(8, gt=0)  # requests
    attempts: int = runtime(6, gt=0)  # of a request that meets a busy or broken server
    timeout_seconds: float = runtime(300.0, gt=0)


def run(config: EvolveConfig, context: StepContext) -> Outcome:
    """Ask for harder instructions round by round and for answers to all; write conversations.jsonl."""
    from train_jobs.finetuning.evolution import evolve

    return evolve(config, context)


def source_state(config: EvolveConfig) -> Sequence[object]:
    """The seed files' names, sizes and times."""
    from pathlib import Path

    from train_jobs.finetune import matching_files

    files = map(Path, matching_files(config.instructions))
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


STEP = Step(config=EvolveConfig, run=run, produces="conversations", source_state=source_state)

if __name__ == "__main__":
    main(STEP)
