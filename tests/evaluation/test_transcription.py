"""Error rates by hand, over the same words for reference and text."""

from glassworks.evaluation.transcription.errors import character_errors, word_errors
from glassworks.evaluation.transcription.labels import labels
from glassworks.evaluation.transcription.score import scores
from glassworks.evaluation.transcription.settings import TranscriptionEvaluation


def test_words_are_compared_in_lower_case_and_without_punctuation():
    assert word_errors("Mrs. Claus", "mrs. claus!") == (0, 2)
    assert word_errors("man, woman and boy", "a man and a boy") == (3, 4), "one insertion, one deletion, one insertion"
    assert word_errors("flag of Bahrain", "flag bahrein") == (2, 3), "one deletion, one substitution"
    assert word_errors("lion", "") == (1, 1)
    assert word_errors("!", "lion cub") == (2, 0)


def test_characters_count_the_space_between_words():
    assert character_errors("sea lion", "sealion") == (1, 8)
    assert character_errors("lion", "loins") == (3, 4)
    assert character_errors("lion", "") == (4, 4)


def test_the_rate_of_a_split_is_its_edits_per_reference_word_and_may_exceed_one():
    items = [
        {"key": "1", "references": ["sea lion", "seal"], "all": "sea lion", "none": "a big cat here"},
        {"key": "2", "references": ["cat"], "all": "bat", "none": "a big cat here"},
    ]
    found = scores(items, "all", 100, 0)
    assert found["wer"]["value"] == round(1 / 3, 6) and found["exact"]["value"] == 0.5
    assert found["cer"]["value"] == round(1 / 11, 6) and found["cider"]["value"] > 0
    assert scores(items, "none", 100, 0)["wer"]["value"] == round(7 / 3, 6)


def test_a_model_of_one_modality_has_no_row_for_it_alone():
    systems = {name: {} for name in ("all", "shuffled", "none")}
    shown = labels(
        {"samples": 9, "split": "test", "modalities": ["audio"], "systems": systems}, TranscriptionEvaluation()
    )
    assert [row.title for row in shown.table.rows] == ["speech", "shuffled", "none"]
    systems |= {"audio": {}, "image": {}}
    both = {"samples": 9, "split": "test", "modalities": ["audio", "image"], "systems": systems}
    shown = labels(both, TranscriptionEvaluation())
    assert [title for _, title in shown.items.answers] == ["speech and image", "speech alone", "image alone"]
    assert [tile.title for tile in shown.tiles] == ["WER, speech and image", "WER, speech alone", "WER, image alone"]
