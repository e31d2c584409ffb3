"""Evol-Instruct for code, after WizardCoder (Luo et al. 2023): five ways to make a task harder, drawn by lot.

Every answer of the endpoint is kept in the artifact's folder as it comes: a run that goes on asks only for what it
lacks. What a way is chosen by is (seed, the instruction, the round), so that the same answers give the same bytes.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from starloom import jsonlines
from starloom.artifact import ArtifactWriter
from starloom.errors import RunError, UserError, one_line
from starloom.kinds import Conversations
from starloom.step import Outcome, StepContext
from train_jobs.finetuning.config import EvolveConfig, every_file

WAYS: Final = {
    "constraint": "Add one new requirement or constraint, in about ten words.",
    "rarer": "Replace a requirement that is common in programming tasks by one that is less common and more specific.",
    "steps": "If the task can be solved in a few steps of reasoning, make it need more steps.",
    "misdirection": "Add a piece of code that is wrong, as a reference that misleads.",
    "complexity": "Ask for a stricter bound on time or memory, but not in every second task of this kind.",
}
ASK: Final = (
    "Rewrite the programming task below so that it is a little harder. {way}\n"
    "Keep it a task that one person can understand and answer in full. Write the new task only, without an answer.\n\n"
    "Task:\n{instruction}"
)
REFUSAL: Final = re.compile(r"\b(?:sorry|as an ai|i can(?:no|')t)\b", re.IGNORECASE)
ANSWERS: Final = ".answers"  # below the artifact; not part of it


@dataclass(frozen=True)
class Instruction:
    """A task, and where it comes from."""

    text: str
    origin: int  # number of the seed
    generation: int = 0  # rounds that it went through
    way: str = ""


def evolve(config: EvolveConfig, context: StepContext) -> Outcome:
    """Run the step; see `train_jobs.evolve`.

    Raises:
        RunError: no instruction was answered.
    """
    oracle = Oracle(config, context.output)
    seeds = [Instruction(text, number) for number, text in enumerate(_instructions(config.instructions))]
    dropped: Counter[str] = Counter()
    known: set[str] = set()
    tasks = [task for task in seeds if _is_new(task, known, dropped)]
    kept, current = list(tasks), tasks
    for generation in range(1, config.rounds + 1):
        context.say(f"round {generation} of {config.rounds}: {len(current):,} instructions")
        ways = [_way(config.seed, task, generation) for task in current]
        asked = [ASK.format(way=WAYS[way], instruction=task.text) for way, task in zip(ways, current, strict=True)]
        made = []
        for task, way, text in zip(current, ways, oracle.answers(asked), strict=True):
            harder = Instruction(text.strip().removeprefix("Task:").strip(), task.origin, generation, way)
            reason = _fault(harder, task)
            if reason:
                dropped[reason] += 1
            elif _is_new(harder, known, dropped):
                made.append(harder)
        kept += made
        current = made
    context.say(f"{len(kept):,} instructions are answered")
    lines = []
    for task, answer in zip(kept, oracle.answers([task.text for task in kept]), strict=True):
        if not answer.strip() or REFUSAL.search(answer[:200]):
            dropped["no_answer"] += 1
            continue
        messages = [{"role": "user", "content": task.text}, {"role": "assistant", "content": answer.strip()}]
        lines.append({"messages": messages, "origin": task.origin, "round": task.generation, "way": task.way})
    if not lines:
        raise RunError(f"{config.url}: no instruction was answered; dropped: {json.dumps(dropped)}")
    text = "".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines)
    context.output.write_text(Conversations.FILE, text)
    return Outcome(rows_in=len(seeds), rows_out=len(lines), dropped=dict(dropped), details={"model": config.model})


class Oracle:
    """The endpoint, with a memory on disk."""

    def __init__(self, config: EvolveConfig, output: ArtifactWriter) -> None:
        from openai import OpenAI

        self._config, self._output = config, output
        key = os.environ.get(config.api_key_variable) or "none"  # local servers want none, the client wants something
        self._client = OpenAI(
            base_url=config.url, api_key=key, max_retries=config.attempts - 1, timeout=config.timeout_seconds
        )

    def answers(self, prompts: Sequence[str]) -> Iterator[str]:
        """The answers in the order of the prompts.

        Raises:
            RunError: the endpoint goes on failing.
        """
        with ThreadPoolExecutor(self._config.at_once) as pool:
            pending = [pool.submit(self._answer, prompt) for prompt in prompts]
            try:
                for future in pending:
                    yield future.result()
            finally:
                for future in pending:
                    future.cancel()

    def _answer(self, prompt: str) -> str:
        import openai

        config = self._config
        asked = [config.url, config.model, config.temperature, config.max_tokens, config.seed, prompt]
        name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        place = f"{ANSWERS}/{name[:2]}/{name}.json"
        if self._output.exists(place):
            return str(self._output.read_json(place)["text"])
        try:
            reply = self._client.chat.completions.create(
                messages=[{"role": "user", "content": prompt}],
                model=config.model,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                seed=config.seed,
            )
        except openai.AuthenticationError:
            raise UserError(f"{config.url}: the key in ${config.api_key_variable} is refused") from None
        except openai.OpenAIError as error:
            raise RunError(f"{config.url}: {one_line(error)}; run again to go on from here") from None
        choices = getattr(reply, "choices", None)
        text = (choices[0].message.content or "") if choices else ""
        self._output.write_json(place, {"text": text})
        return text


def _instructions(patterns: Sequence[str]) -> Iterator[str]:
    for path in every_file(patterns, setting="instructions"):
        for where, record in jsonlines.read(path):
            text = record.get("instruction", record.get("prompt"))
            if not isinstance(text, str) or not text.strip():
                raise UserError(f'{where}: has no instruction; write {{"instruction": "..."}}')
            yield text.strip()


def _way(seed: int, task: Instruction, generation: int) -> str:
    drawn = hashlib.sha256(f"{seed}\n{generation}\n{task.text}".encode()).digest()
    return sorted(WAYS)[int.from_bytes(drawn[:8], "big") % len(WAYS)]


def _fault(harder: Instruction, parent: Instruction) -> str:
    """Why an evolved instruction is not kept, or nothing."""
    if REFUSAL.search(harder.text[:200]):
        return "refused"
    if len(harder.text) < 20:
        return "too_short"
    if _plain(harder.text) == _plain(parent.text):
        return "unchanged"
    return ""


def _is_new(task: Instruction, known: set[str], dropped: Counter[str]) -> bool:
    text = _plain(task.text)
    if text in known:
        dropped["duplicate"] += 1
        return False
    known.add(text)
    return True


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
