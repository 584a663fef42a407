"""What bits per byte of a language model are held against: compressors, and a bigram model over the same tokens."""

import gzip
import lzma
import math

import numpy as np

from glassworks.data.reading.tokens import Tokens


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """The sizes of `gzip -9` and of `xz -9` of a text, each in bits for a byte of it. They know nothing but this text; xz looks back through all of it."""
    return {
        "gzip -9": 8 * len(gzip.compress(text, 9, mtime=0)) / len(text),
        "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text),
    }


def bigram_bits(training: Tokens, scored: Tokens, vocabulary: int) -> float:
    """Bits that a bigram model of the training tokens needs for the scored ones, BOS given.

    Witten-Bell smoothing (1991): p(w | v) = (count(v w) + followers(v) p(w)) / (count(v) + followers(v)), where p(w) is the unigram share with one added to
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
    backed = np.maximum(followers[before], 1)  # a token that training never saw backs off entirely
    probability = (count + backed * unigram[after]) / (total[before] + backed)
    return float(-np.log(probability).sum() / math.log(2))


def _pairs(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Every token with the one after it in the same text, int64 each."""
    ids = tokens.ids.astype(np.int64)
    inside = np.ones(len(ids), bool)
    inside[tokens.ends - 1] = False
    places = np.flatnonzero(inside)
    return ids[places], ids[places + 1]
