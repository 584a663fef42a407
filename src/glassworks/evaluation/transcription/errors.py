"""Word and character errors of texts, counted by jiwer over the words of `evaluation.captions.words`: lower case, without punctuation.

The error rate of a split is its edits divided by the length of its references (Morris et al., 2004), so it may exceed 1.
"""

from typing import NamedTuple

from glassworks.evaluation.captions.words import words


class Errors(NamedTuple):
    """Edits of one text, and the length of its reference."""

    edits: int
    """Substitutions, deletions and insertions."""
    length: int


def word_errors(reference: str, text: str) -> Errors:
    """Edits of words."""
    from jiwer import process_words

    truth, found = words(reference), words(text)
    if not truth or not found:  # which jiwer refuses
        return Errors(max(len(truth), len(found)), len(truth))
    counts = process_words(" ".join(truth), " ".join(found))
    return Errors(counts.substitutions + counts.deletions + counts.insertions, len(truth))


def character_errors(reference: str, text: str) -> Errors:
    """Edits of characters, those between words included."""
    from jiwer import process_characters

    truth, found = " ".join(words(reference)), " ".join(words(text))
    if not truth or not found:
        return Errors(max(len(truth), len(found)), len(truth))
    counts = process_characters(truth, found)
    return Errors(counts.substitutions + counts.deletions + counts.insertions, len(truth))
