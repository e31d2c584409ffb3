"""Files held against benchmarks: exact substrings by an automaton, near duplicates of solutions by n-grams."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from data_jobs.benchmarks.screening import Screen, normalize
from data_jobs.benchmarks.tasks import Benchmark, MatchLimits, tasks_of, texts_of
from data_jobs.near_duplicates.kernel import shingle_hashes
from starloom.contamination import BENCHMARK_SOLUTION, BENCHMARK_TEXT, Match
from starloom.errors import UserError

NGRAM = 5
_LEADING_BITS = 20
_SHIFT = np.uint64(64 - _LEADING_BITS)


@dataclass(frozen=True)
class Matcher:
    """Every benchmark in a form that a file can be held against."""

    substrings: Any  # an Aho-Corasick automaton over normalized texts; its values are task names
    screen: Screen  # for the same texts
    hashes: np.ndarray  # uint64, sorted: 5-grams of solutions
    owners: np.ndarray  # int64: the solution of each hash
    sizes: np.ndarray  # int64: distinct 5-grams of each solution
    leading: np.ndarray  # bool [2^20]: whether a solution has an n-gram with these leading bits
    tasks: tuple[str, ...]  # the task of each solution
    containment: float

    def match(self, text: str) -> Match | None:
        """Why a file is contaminated, or None."""
        if self.screen.may_hold(text):
            for _, task in self.substrings.iter(normalize(text)):
                return Match(BENCHMARK_TEXT, task)
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
        return Match(BENCHMARK_SOLUTION, self.tasks[best], float(shares[best]))


@lru_cache(maxsize=4)
def build_matcher(benchmarks: tuple[Benchmark, ...], limits: MatchLimits) -> Matcher:
    """Read the benchmarks.

    Raises:
        UserError: a file is missing, is no JSON lines, or holds nothing to match.
    """
    import ahocorasick

    automaton = ahocorasick.Automaton()
    solutions: list[tuple[str, np.ndarray]] = []
    for benchmark in benchmarks:
        for task, fields in tasks_of(benchmark):
            for text in texts_of(fields, benchmark):
                plain = normalize(text)
                if len(plain) >= limits.min_characters:
                    automaton.add_word(plain, task)
            for name in benchmark.solution_fields:
                solution = fields.get(name)
                if isinstance(solution, str):
                    hashes = np.unique(shingle_hashes(solution.encode(), NGRAM))
                    if len(hashes) >= limits.min_ngrams:
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
    screen = Screen.of(automaton.keys())
    return Matcher(automaton, screen, hashes[order], owners[order], sizes, leading, names, limits.containment)
