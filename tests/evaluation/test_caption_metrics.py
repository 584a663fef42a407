"""The scores of captions: pinned to pycocoevalcap, the words to Stanford's tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest

from glassworks.errors import DataError
from glassworks.evaluation.captions.metrics import corpus_bleu, java_is_there, meteor_scorer, score
from glassworks.evaluation.captions.words import words

REFERENCES = {
    "0": ["a dog runs on the grass", "a brown dog is running outside"],
    "1": ["two men play soccer", "men playing football on a field"],
}
HYPOTHESES = {"0": "a dog runs on grass", "1": "two men playing soccer on a field"}
RECORDED = json.loads(Path(__file__).with_name("recorded_ptb_words.json").read_text())


@pytest.mark.parametrize(("caption", "expected"), RECORDED)
def test_words_are_those_of_the_java_tokenizer(caption: str, expected: str) -> None:
    """Recorded output of PTBTokenizer 3.4.1, called as pycocoevalcap calls it, without the punctuation."""
    assert words(caption) == expected.split()


def test_punctuation_is_no_word_and_no_word_holds_a_space() -> None:
    assert words(" .,!?;:'\"“”()…  —") == ["-lrb-", "-rrb-"]
    assert words("") == []
    assert all(" " not in word and word == word.lower() for word in words("A\tB\u00a0C\nD’s 🐶 “É”"))


def test_scores_are_those_of_the_pinned_fixture() -> None:
    scores = score(REFERENCES, HYPOTHESES)
    assert scores.bleu == pytest.approx([0.99999999983, 0.8366600264, 0.6402895824, 0.4573456095], abs=1e-9)
    assert scores.rouge_l == pytest.approx(0.8372396517, abs=1e-9)
    assert scores.cider == pytest.approx(3.1028449613, abs=1e-9)


def test_corpus_bleu_of_summed_statistics_is_that_of_pycocoevalcap() -> None:
    """Random captions, some empty, some too short for four words in a row, some longer than every reference."""
    generator = np.random.default_rng(0)
    vocabulary = np.array(["a", "the", "cat", "dog", "red", "big", "house", "runs", "sits", "on", "with", "two"])

    def caption(longest: int) -> str:
        return " ".join(generator.choice(vocabulary, generator.integers(0, longest)))

    references = {str(i): ["a cat", *(caption(12) for _ in range(generator.integers(0, 5)))] for i in range(60)}
    hypotheses = {key: caption(9) for key in references}
    scores = score(references, hypotheses)
    found = [float(corpus_bleu(scores.bleu_statistics.sum(axis=0), order)) for order in (1, 2, 3, 4)]
    assert found == pytest.approx(scores.bleu, abs=1e-9)
    assert 0 < scores.bleu[3] < scores.bleu[0] < 1


def test_means_over_images_are_the_scores() -> None:
    scores = score(REFERENCES, HYPOTHESES)
    assert scores.image_cider.mean() == pytest.approx(scores.cider)
    assert scores.image_rouge_l.mean() == pytest.approx(scores.rouge_l)
    assert scores.keys == ["0", "1"]


def test_case_and_punctuation_do_not_count() -> None:
    shouted = {key: caption.upper() + " !" for key, caption in HYPOTHESES.items()}
    assert score(REFERENCES, shouted).cider == score(REFERENCES, HYPOTHESES).cider


def test_scoring_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    score(REFERENCES, HYPOTHESES)
    assert capsys.readouterr().out == ""


def test_an_empty_caption_scores_nothing() -> None:
    scores = score(REFERENCES, {"0": "", "1": "two men playing soccer on a field"})
    assert scores.image_cider[0] == scores.image_rouge_l[0] == 0


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ({}, {}, "no captions"),
        ({"a": ["x"]}, {}, "'a' has references but no predicted"),
        ({"a": ["x"]}, {"a": "x", "b": "y"}, "'b' has a predicted caption but no references"),
        ({"a": []}, {"a": "x"}, "'a' has no reference"),
        ({"a": ["..."]}, {"a": "x"}, "no reference caption holds a word"),
    ],
)
def test_what_cannot_be_scored_is_refused(references: dict, hypotheses: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(references, hypotheses)


@pytest.mark.skipif(not java_is_there(), reason="METEOR is a Java program")
def test_meteor_is_pycocoevalcaps_where_there_is_java():
    with meteor_scorer() as meteor:
        scores = score(REFERENCES, HYPOTHESES, meteor)
        again = score(REFERENCES, HYPOTHESES, meteor)
        exact = score(REFERENCES, {key: REFERENCES[key][0] for key in REFERENCES}, meteor)
    assert scores.image_meteor.tolist() == again.image_meteor.tolist()
    # recorded for both as one corpus, whose score is close to the mean over them, but not the same
    assert scores.image_meteor.mean() == pytest.approx(0.4918386263, abs=0.01)
    assert exact.image_meteor.tolist() == [1, 1]
