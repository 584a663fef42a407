"""Ranks of partners."""

from collections.abc import Iterator

import numpy as np

DIGITS = 6
"""Decimal digits of a similarity. Rounding makes equal vectors tie on every CPU."""
CELLS = 1 << 25
"""Similarities held at a time: 256 MB, all of them up to 5,792 samples."""


class Similarities:
    """The similarities of N queries to N candidates: scalar products of vectors [N, D]. They are computed for some queries at a time."""

    def __init__(self, queries: np.ndarray, candidates: np.ndarray) -> None:
        self.queries, self.candidates = queries, candidates

    def __len__(self) -> int:
        return len(self.queries)

    def ranks(self, partners: np.ndarray) -> np.ndarray:
        """The rank [N] of each query's partner (`ranks_of`)."""
        return np.concatenate([ranks_of(found, partners[rows]) for rows, found in self._blocks()])

    def nearest(self) -> np.ndarray:
        """The candidate [N] with the highest similarity to each query, the first of equal ones."""
        return np.concatenate([found.argmax(axis=1) for _, found in self._blocks()])

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Some queries, and their similarities to all candidates."""
        size = max(1, CELLS // max(1, len(self.candidates)))
        for start in range(0, max(1, len(self)), size):
            rows = slice(start, start + size)
            yield rows, (self.queries[rows] @ self.candidates.T).round(DIGITS)


def ranks_of(similarities: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """The rank [N] of each query's partner, from 1. `similarities` [N, M] has a row for each query, `partners` [N] the column of its partner.

    Candidates that are as similar as the partner count as better: vectors that are all equal earn nothing.
    """
    own = np.take_along_axis(similarities, partners[:, None], axis=1)
    ranks: np.ndarray = (similarities >= own).sum(axis=1)
    return ranks
