"""How many bands of how many rows: the S-curve of locality-sensitive hashing (Leskovec et al., chapter 3)."""

from dataclasses import dataclass


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
