"""Splits by a stable hash of the group (image, base concept, speaker), so samples of one group share a split."""

import hashlib

from glassworks.config.datasets import Split


def share(seed: int, *parts: str) -> float:
    """A number in [0, 1) that depends only on the arguments, on every machine and in every version."""
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(group: str, splits: dict[str, float], seed: int) -> Split:
    """The split of a group, given the held-out shares {validation, test}."""
    place = share(seed, "split", group)
    if place < splits["test"]:
        return "test"
    return "validation" if place < splits["test"] + splits["validation"] else "train"
