"""Ranks of partners."""

import numpy as np


def ranks_of(similarities: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """The rank [N] of each query's partner, from 1. `similarities` [N, N] has a row for each query, `partners` [N] the column of its partner.

    Candidates that are as similar as the partner count as better: vectors that are all equal earn nothing.
    """
    own = np.take_along_axis(similarities, partners[:, None], axis=1)
    ranks: np.ndarray = (similarities >= own).sum(axis=1)
    return ranks
