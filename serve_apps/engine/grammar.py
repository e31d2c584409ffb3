"""Answers that a grammar allows: JSON of a schema, a regular expression, or a grammar, kept to token by token.

`llguidance` tells which tokens may come next; whoever samples leaves the others out.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np

from starloom.tokenizer import CodeTokenizer

GrammarKind = Literal["json", "regex", "grammar"]
MOST_CHARACTERS = 100_000  # of a grammar
KEPT = 64  # grammars that are found again compiled
_CALLED = {"json": "JSON schema", "regex": "regular expression", "grammar": "grammar"}
# as Python writes JSON: a model that may write white space wherever it likes can do so for ever
_WRITTEN: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Grammar:
    """What an answer must be: JSON of the schema `text`, or a match of a regular expression, a Lark or GBNF grammar."""

    kind: GrammarKind
    text: str

    @staticmethod
    def one_of(choices: Sequence[str]) -> "Grammar":
        """One of these texts and nothing else."""
        return Grammar("regex", "|".join(map(_escaped, choices)))


class Matcher(Protocol):
    """Where an answer stands in its grammar."""

    def allowed(self) -> np.ndarray[Any, Any]:
        """Bool [vocabulary]: which tokens may come next."""

    def take(self, token: int) -> bool:
        """Go on over a token; whether nothing can follow but the end."""


class Grammars:
    """Compiled grammars for one vocabulary; `ends` are the ids that end an answer."""

    def __init__(self, tokenizer: CodeTokenizer, vocabulary: int, ends: Iterable[int]) -> None:
        self._tokenizer, self._vocabulary, self._ends = tokenizer, vocabulary, sorted(ends)
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()
        self._lock, self._table = Lock(), None  # type: Lock, Any

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of an answer; may take long for a grammar that was not used of late.

        Raises:
            ValueError: it is no grammar, or one that cannot be kept to.
        """
        with self._lock:
            found = self._compiled.pop(grammar, None)
            if found is None:
                found = self._compile(grammar)
            self._compiled[grammar] = found
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return LlguidanceMatcher(found.deep_copy(), self._vocabulary)

    def _compile(self, grammar: Grammar) -> Any:
        import llguidance

        if len(grammar.text) > MOST_CHARACTERS:
            raise ValueError(f"the {_CALLED[grammar.kind]} is longer than {MOST_CHARACTERS:,} characters")
        if self._table is None:
            self._table = llguidance.LLTokenizer(self._tokenizer.json_text, self._vocabulary, self._ends)
        try:
            if grammar.kind == "json":
                text = llguidance.LLMatcher.grammar_from_json_schema(json.loads(grammar.text), overrides=_WRITTEN)
            else:
                text = llguidance.grammar_from(grammar.kind, grammar.text)
        except (ValueError, TypeError) as error:
            raise _refused(grammar, str(error)) from None
        wrong = llguidance.LLMatcher.validate_grammar(text, self._table)
        made = None if wrong else llguidance.LLMatcher(self._table, text, log_level=0)
        if made is None or made.is_error():
            raise _refused(grammar, wrong or str(made and made.get_error()))
        return made


@dataclass
class LlguidanceMatcher:
    """`Matcher` by llguidance."""

    matcher: Any
    vocabulary: int
    _bits: Any = field(init=False)

    def __post_init__(self) -> None:
        import llguidance.numpy

        self._bits = llguidance.numpy.allocate_token_bitmask(1, self.vocabulary)

    def allowed(self) -> np.ndarray[Any, Any]:
        """Bool [vocabulary]: which tokens may come next."""
        import llguidance.numpy

        llguidance.numpy.fill_next_token_bitmask(self.matcher, self._bits, 0)
        return np.unpackbits(self._bits[0].view(np.uint8), bitorder="little")[: self.vocabulary].astype(bool)

    def take(self, token: int) -> bool:
        """Go on over a token; whether nothing can follow but the end.

        Raises:
            FloatingPointError: the matcher has met a limit of its own.
        """
        if not self.matcher.consume_token(token) or self.matcher.is_error():
            raise FloatingPointError(f"the grammar cannot go on: {self.matcher.get_error()[:200]}")
        return bool(self.matcher.is_stopped())


def _refused(grammar: Grammar, why: str) -> ValueError:
    told = " ".join(why.split())
    return ValueError(f"the {_CALLED[grammar.kind]} cannot be kept to: {told[:300]}")


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(c):x}}}" if not c.isalnum() or ord(c) > 127 else c for c in text)
