"""Ridge regression between the features of two encoders: the control of aligned heads, with a closed form and without training.

N samples, C and D features.
"""

from collections.abc import Sequence

import numpy as np

STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Penalties that are tried, relative to the mean variance of the features."""


class Ridge:
    """A linear map of features [N, C] to features [N, D], fitted to centred samples; `strengths` are the penalties to choose from."""

    def __init__(self, sources: np.ndarray, targets: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> None:
        self.source_mean, self.target_mean = sources.mean(0), targets.mean(0)
        centred = sources - self.source_mean
        values, self.vectors = np.linalg.eigh(centred.T @ centred)
        self.products = self.vectors.T @ (centred.T @ (targets - self.target_mean))  # [C, D]
        self.values, self.penalties = values, [strength * values.mean() for strength in strengths]
        self.strength = 0

    def predict(self, sources: np.ndarray) -> np.ndarray:
        """Predicted features [N, D], relative to the mean of the fitted targets."""
        scale = 1 / np.maximum(self.values + self.penalties[self.strength], np.finfo(np.float64).tiny)
        weights: np.ndarray = self.vectors @ (scale[:, None] * self.products)
        return (sources - self.source_mean) @ weights

    def choose(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Take the penalty with the lowest squared error on held-out samples; the middle one without any."""
        self.strength = len(self.penalties) // 2
        if len(sources):
            errors = []
            for number in range(len(self.penalties)):
                self.strength = number
                errors.append(float(((self.predict(sources) - (targets - self.target_mean)) ** 2).sum()))
            self.strength = int(np.argmin(errors))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] of length 1; zero vectors stay zero."""
    found: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found
