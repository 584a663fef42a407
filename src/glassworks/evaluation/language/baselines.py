"""Baselines for the bits per byte of a language model: compressors, and a bigram model over the same tokens."""

import gzip
import lzma
import math

import numpy as np

from glassworks.data.reading.tokens import Tokens


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """Bits per byte of a text compressed by `gzip -9` and by `xz -9`. Both use only this text; the window of xz covers all of it."""
    return {
        "gzip -9": 8 * len(gzip.compress(text, 9, mtime=0)) / len(text),
        "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text),
    }


def bigram_bits(training: Tokens, scored: Tokens, vocabulary: int) -> float:
    """Total bits of the scored tokens under a bigram model of the training tokens, given BOS.

    Witten-Bell smoothing (1991): p(w | v) = (count(v w) + followers(v) p(w)) / (count(v) + followers(v)). p(w) is the unigram share with one added to
    every count.
    """
    before, after = _pairs(training)
    unigram = np.bincount(after, minlength=vocabulary) + 1.0
    unigram /= unigram.sum()
    seen, counts = np.unique(before * vocabulary + after, return_counts=True)
    followers = np.bincount(seen // vocabulary, minlength=vocabulary)
    total = np.bincount(before, minlength=vocabulary)
    before, after = _pairs(scored)
    code = before * vocabulary + after
    at = np.minimum(np.searchsorted(seen, code), len(seen) - 1)
    count = np.where(seen[at] == code, counts[at], 0)
    backed = np.maximum(followers[before], 1)  # a token absent from training backs off entirely
    probability = (count + backed * unigram[after]) / (total[before] + backed)
    return float(-np.log(probability).sum() / math.log(2))


def _pairs(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of consecutive tokens of the same text, as two int64 arrays."""
    ids = tokens.ids.astype(np.int64)
    inside = np.ones(len(ids), bool)
    inside[tokens.ends - 1] = False
    places = np.flatnonzero(inside)
    return ids[places], ids[places + 1]
