"""BLEU, ROUGE-L, CIDEr-D and METEOR of captions against all references, with per-image statistics for the bootstrap.

The scorers are pycocoevalcap's. METEOR is a Java program and is skipped without Java. SPICE needs a download and is not
supported. Scores are fractions as pycocoevalcap returns them (papers print them times 100): BLEU, ROUGE-L and METEOR in
[0, 1], CIDEr-D in [0, 10].
"""

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from glassworks.errors import DataError
from glassworks.evaluation.captions.words import words
from glassworks.watchdog import unwatched

ORDERS = 4
"""BLEU-1 to BLEU-4."""
SMALL, TINY = 1e-9, 1e-15
"""Constants of pycocoevalcap that keep the quotients of BLEU finite."""


@dataclass(frozen=True)
class Scores:
    """Scores of one system on one split. The rows of the arrays are in the order of `keys`."""

    keys: list[str]
    bleu: list[float]
    """Corpus BLEU-1 to BLEU-4, with one brevity penalty for the corpus against the closest reference lengths.

    Papineni et al. 2002, aclanthology.org/P02-1040.
    """
    rouge_l: float
    """Mean over images of ROUGE-L: F (beta 1.2) of the best precision and the best recall over the references.

    Lin 2004, aclanthology.org/W04-1013.
    """
    cider: float
    """Mean over images of CIDEr-D (sigma 6).

    Vedantam et al. 2015, arXiv 1411.5726. The document frequencies come from the references of exactly these images, so
    scores on different sets of images are not comparable.
    """
    bleu_statistics: np.ndarray
    """[images, 10]: matched n-grams for n = 1..4, proposed n-grams for n = 1..4, length, closest reference length."""
    image_rouge_l: np.ndarray
    """[images]."""
    image_cider: np.ndarray
    """[images]."""
    image_meteor: np.ndarray | None = None
    """[images]: METEOR 1.5 of each image (Denkowski and Lavie 2014, aclanthology.org/W14-3348); None if not requested."""


def java_is_there() -> bool:
    """Whether Java is installed, so that METEOR can be computed."""
    return shutil.which("java") is not None


@contextmanager
def meteor_scorer() -> Iterator[Any]:
    """pycocoevalcap's METEOR scorer; its Java process runs inside the context."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        yield scorer
    finally:
        scorer.meteor_p.kill()
        scorer.meteor_p.communicate()
        # An interrupted score still holds the lock of the scorer; the scorer's destructor would wait for it forever.
        scorer.lock = threading.Lock()


def score(references: Mapping[str, list[str]], hypotheses: Mapping[str, str], meteor: Any = None) -> Scores:
    """The scores of one caption per image against all references of the image. `meteor` is a `meteor_scorer`, or None.

    Raises `DataError` if the keys differ, an image has no reference, or no reference contains a word.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    _check(references, hypotheses)
    keys = list(references)
    truth = {key: [" ".join(words(caption)) for caption in references[key]] for key in keys}
    candidates = {key: [" ".join(words(hypotheses[key]))] for key in keys}
    if not any(any(captions) for captions in truth.values()):
        raise DataError("no reference caption holds a word; there is nothing to score against")

    scorer = BleuScorer(n=ORDERS)
    for key in keys:
        scorer += (candidates[key][0], truth[key])
    bleu, _ = scorer.compute_score(option="closest", verbose=0)
    statistics = np.array([_bleu_row(counts) for counts in scorer.ctest], dtype=np.float64)
    rouge_l, image_rouge_l = Rouge().compute_score(truth, candidates)
    cider, image_cider = Cider().compute_score(truth, candidates)
    image_meteor = None
    if meteor is not None:
        try:
            with unwatched():
                image_meteor = np.array(meteor.compute_score(truth, candidates)[1])
        except (ValueError, OSError):
            raise DataError("METEOR's Java program ended without a score; does `java -version` work?") from None
    return Scores(keys, bleu, float(rouge_l), float(cider), statistics, image_rouge_l, image_cider, image_meteor)


def corpus_bleu(sums: np.ndarray, order: int) -> np.ndarray:
    """BLEU-`order` [...] of summed statistics [..., 10]. Equals pycocoevalcap's up to rounding."""
    product = np.ones(sums.shape[:-1])
    for n in range(order):
        product = product * (sums[..., n] + TINY) / (sums[..., ORDERS + n] + SMALL)
    ratio = (sums[..., 2 * ORDERS] + TINY) / (sums[..., 2 * ORDERS + 1] + SMALL)
    return product ** (1 / order) * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _bleu_row(counts: dict[str, Any]) -> list[int]:
    """A row of `bleu_statistics` from the counts of pycocoevalcap's BleuScorer for one image."""
    length = counts["testlen"]
    closest = min((abs(other - length), other) for other in counts["reflen"])[1]
    return [*counts["correct"], *counts["guess"], length, closest]


def _check(references: Mapping[str, list[str]], hypotheses: Mapping[str, str]) -> None:
    if not references:
        raise DataError("there are no captions to score")
    for key in references:
        if key not in hypotheses:
            raise DataError(f"sample {key!r} has references but no predicted caption")
        if not references[key]:
            raise DataError(f"sample {key!r} has no reference caption to score against")
    for key in hypotheses:
        if key not in references:
            raise DataError(f"sample {key!r} has a predicted caption but no references")
