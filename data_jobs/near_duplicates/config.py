"""What counts as a duplicate, and how many bands of how many rows find it.

The bands follow the S-curve of locality-sensitive hashing (Leskovec et al., "Mining of Massive Datasets", chapter 3).
"""

from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from starloom.config import Config, runtime


@dataclass(frozen=True)
class Bands:
    """`count` bands of `rows` hash values each."""

    count: int
    rows: int

    def chance(self, jaccard: float) -> float:
        """The chance that a pair of this similarity shares at least one band."""
        return float(1 - (1 - jaccard**self.rows) ** self.count)


def choose_bands(permutations: int, threshold: float, recall: float) -> Bands:
    """The longest rows (fewest false candidates) that still find a pair at the threshold with chance `recall`.

    Raises:
        ValueError: no split of the permutations reaches that recall.
    """
    fitting = [Bands(permutations // rows, rows) for rows in range(permutations, 0, -1)]
    for bands in fitting:
        if bands.chance(threshold) >= recall:
            return bands
    raise ValueError(f"no bands reach recall {recall:g} at threshold {threshold:g}; raise permutations")


class LanguageRule(Config):
    """What differs for one language; a pair of two languages counts at the lower threshold."""

    ngram: int | None = Field(None, ge=1, le=32)
    threshold: float | None = Field(None, gt=0, le=1)


class SketchConfig(Config):
    """How files are compared; what is remembered of a corpus must have been made with the same."""

    threshold: float = Field(0.7, gt=0, le=1)  # Jaccard similarity of word n-grams
    ngram: int = Field(5, ge=1, le=32)  # words
    permutations: int = Field(256, ge=16, le=4096)
    seed: int = 1  # of the permutations, as in datasketch
    recall: float = Field(0.99, gt=0, lt=1)  # least chance that a pair at the threshold becomes a candidate
    languages: dict[str, LanguageRule] = {}

    @model_validator(mode="after")
    def _bands_exist(self) -> Self:
        choose_bands(self.permutations, self.least_threshold, self.recall)
        return self

    @property
    def least_threshold(self) -> float:
        """What candidates are looked for at: the lowest of all thresholds."""
        return min([self.threshold, *(rule.threshold for rule in self.languages.values() if rule.threshold)])

    def ngram_of(self, language: str | None) -> int:
        """Words of an n-gram in files of a language."""
        rule = self.languages.get(language or "")
        return rule.ngram if rule and rule.ngram else self.ngram

    def threshold_of(self, language: str | None) -> float:
        """How alike files of a language must be."""
        rule = self.languages.get(language or "")
        return rule.threshold if rule and rule.threshold else self.threshold


class DeduplicateConfig(SketchConfig):
    """What counts as a duplicate, and how candidates are looked for."""

    neighbours: int = Field(4, ge=1)  # links of a file within a bucket, besides the one to the bucket's first file
    strict: bool = False  # a dropped file must itself be within the threshold of the file that is kept
    alarm_share: float = Field(0.5, gt=0, le=1)  # a source that loses more of its files is named in a warning
    bands_per_task: int = runtime(8, gt=0)  # 16 bytes a file and band in the task's memory
    edges_per_task: int = runtime(200_000, gt=0)
