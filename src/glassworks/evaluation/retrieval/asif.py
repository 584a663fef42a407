"""ASIF (Norelli et al., 2022, arXiv 2210.01738): the control of aligned heads that trains nothing.

Training pairs are anchors. A sample is described by its similarities to the anchors in its own modality, so samples of two modalities become comparable.
Here features are first centred on those of the anchors, because the features of a single encoder point in similar directions.

N and M samples, A anchors, C and D features.
"""

from itertools import product

import numpy as np

from glassworks.evaluation.retrieval.ranks import ranks_of
from glassworks.evaluation.retrieval.ridge import unit

COUNTS = (10, 30, 100, 300, 800)
"""Numbers of nearest anchors that are tried; the other similarities become 0."""
POWERS = (1, 2, 4, 8)
"""Exponents of the similarities that are tried."""


class Asif:
    """Similarities between two modalities by the anchors [A, C] and [A, D], which belong together row by row."""

    def __init__(self, sources: np.ndarray, targets: np.ndarray) -> None:
        self.means = [side.mean(0) for side in (sources, targets)]
        self.anchors = [unit(side - mean) for side, mean in zip((sources, targets), self.means, strict=True)]
        self.count, self.power = min(COUNTS[-1], len(sources)), POWERS[-1]

    def vectors(self, sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors [N, A] of features [N, C], and [M, A] of features [M, D]. Their scalar products are the similarities."""
        return self._relative(sources, 0), self._relative(targets, 1)

    def similarities(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The similarities [N, M] of features [N, C] to features [M, D]."""
        first, second = self.vectors(sources, targets)
        found: np.ndarray = first @ second.T
        return found

    def choose(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Take the number of anchors and the exponent with the highest mean reciprocal rank on held-out pairs; the published ones with fewer than two."""
        if len(sources) < 2:
            return
        own, scores = np.arange(len(sources)), {}
        counts = [count for count in COUNTS if count <= len(self.anchors[0])] or [self.count]
        for tried in product(counts, POWERS):
            self.count, self.power = tried
            found = self.similarities(sources, targets)
            scores[tried] = sum(float((1 / ranks_of(side, own)).mean()) for side in (found, found.T))
        self.count, self.power = max(scores, key=lambda tried: scores[tried])

    def _relative(self, features: np.ndarray, side: int) -> np.ndarray:
        """Unit vectors [N, A]: the `count` highest similarities to the anchors, none below 0, to the power `power`."""
        found = unit(features - self.means[side]) @ self.anchors[side].T
        least = np.partition(found, -self.count, axis=1)[:, [-self.count]]
        return unit(np.where(found >= least, found.clip(min=0), 0.0) ** self.power)
