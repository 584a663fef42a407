"""The summary of an evaluation: systems, controls, intervals."""

import json
import random
import shutil
from typing import Any

import pytest

from glassworks.errors import DataError
from glassworks.evaluation.captions.labels import SYSTEMS, labels
from glassworks.evaluation.captions.metrics import java_is_there
from glassworks.evaluation.captions.settings import CaptionsEvaluation
from glassworks.evaluation.captions.summary import caption_rows, most_frequent_caption, summarise
from glassworks.evaluation.scoring import scores_tsv

from ..small_pipeline import BIN

NAMES = ["cat", "dog", "fox", "bell", "kite"]
PLACE = {"left of": "to the left of", "above": "above"}


def scenes(count: int) -> tuple[dict[str, list[str]], dict[str, Any]]:
    generator = random.Random(0)
    references, labels = {}, {}
    for index in range(count):
        (a, b), relation = generator.sample(NAMES, 2), generator.choice(list(PLACE))
        references[f"s{index}"] = [f"a {a} {PLACE[relation]} a {b}", f"a picture of a {b} and a {a}"]
        labels[f"s{index}"] = {
            "objects": [{"name": a, "count": 1}, {"name": b, "count": 1}],
            "relations": [[a, relation, b]],
            "ground": {"kind": "plain", "color": "white"},
        }
    return references, labels


REFERENCES, LABELS = scenes(40)
KEYS = list(REFERENCES)
PREDICTIONS = {
    "greedy": {key: captions[index % 3 == 0] for index, (key, captions) in enumerate(REFERENCES.items())},
    "beam": {key: captions[0] for key, captions in REFERENCES.items()},
    "blank": dict.fromkeys(KEYS, "a cat"),
    "shuffled": {key: REFERENCES[KEYS[index - 1]][0] for index, key in enumerate(KEYS)},
    "most_frequent": dict.fromkeys(KEYS, "a cat above a dog"),
}


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summarise(REFERENCES, LABELS, PREDICTIONS, meteor=java_is_there(), resamples=200, seed=0)


def test_every_system_has_every_metric_and_an_interval_around_it(summary: dict[str, Any]) -> None:
    assert list(summary["systems"]) == [name for name, *_ in SYSTEMS] and summary["samples"] == 40
    for scores in summary["systems"].values():
        facts = {"objects", "counts", "relations", "ground"}
        meteor = {"meteor"} if java_is_there() else set()
        assert set(scores) == {"cider", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", *meteor, *facts}
        for found in scores.values():
            if found["value"] is not None:
                assert found["low"] <= found["value"] <= found["high"]


def test_true_captions_are_above_the_controls(summary: dict[str, Any]) -> None:
    systems = summary["systems"]
    assert systems["beam"]["objects"]["value"] == systems["beam"]["counts"]["value"] == 1
    assert systems["beam"]["relations"]["value"] == 1
    for control in ("blank", "shuffled", "most_frequent"):
        for metric in ("cider", "bleu4", "rouge_l", "objects"):
            assert systems[control][metric]["high"] < systems["beam"][metric]["low"]


def test_shares_are_of_the_images_where_the_question_arises(summary: dict[str, Any]) -> None:
    assert summary["systems"]["greedy"]["relations"]["value"] == 1, "captions that state no relation are not counted"
    assert summary["systems"]["blank"]["relations"] == {"value": None, "low": None, "high": None}
    assert summary["systems"]["blank"]["counts"]["value"] is None


def test_summary_is_json_and_repeats(summary: dict[str, Any]) -> None:
    again = summarise(REFERENCES, LABELS, PREDICTIONS, meteor=java_is_there(), resamples=200, seed=0)
    assert json.dumps(again, allow_nan=False) == json.dumps(summary, allow_nan=False)


def test_without_exact_labels_there_are_no_scores_of_facts() -> None:
    found = summarise(REFERENCES, {}, {"greedy": PREDICTIONS["greedy"]}, resamples=100, seed=0)
    assert "objects" not in found["systems"]["greedy"] and "cider" in found["systems"]["greedy"]


def test_a_fault_names_the_system() -> None:
    with pytest.raises(DataError, match="beam: sample 's0' has references but no predicted caption"):
        summarise(REFERENCES, LABELS, {"beam": {}}, resamples=100, seed=0)


def test_rows_hold_captions_and_the_facts_they_get_right() -> None:
    rows = list(caption_rows(REFERENCES, LABELS, PREDICTIONS))
    assert [row["key"] for row in rows] == KEYS
    assert rows[0]["beam"] == PREDICTIONS["beam"]["s0"] and rows[0]["references"] == REFERENCES["s0"]
    assert rows[0]["facts"]["beam"] == {"objects": True, "counts": True, "relations": True, "ground": None}
    assert "facts" not in next(iter(caption_rows(REFERENCES, {}, PREDICTIONS)))


def test_most_frequent_caption_does_not_depend_on_order() -> None:
    captions = ["a dog", "a cat", "a cat ", "a dog", "a fox", "a cat"]
    assert most_frequent_caption(captions) == most_frequent_caption(captions[::-1]) == "a cat"


def test_among_captions_that_stand_once_the_most_ordinary_is_taken() -> None:
    captions = ["seven zebras", "a cat and a dog", "a cat and a mouse", "a dog and a cat above a fox", "Aardvark"]
    assert most_frequent_caption(captions) == most_frequent_caption(sorted(captions)) == "a cat and a dog"
    with pytest.raises(DataError, match="no caption"):
        most_frequent_caption(["", " "])


def test_plots_are_a_table_of_defined_scores(summary: dict[str, Any]) -> None:
    lines = scores_tsv(summary, labels(summary, CaptionsEvaluation())).splitlines()
    assert lines[0].split("\t") == ["system", "metric", "value", "low", "high"]
    assert all(len(line.split("\t")) == 5 and "None" not in line for line in lines)
    assert "beam\tobjects\t1.0\t1.0\t1.0" in lines
    assert not any(line.startswith("blank\trelations") for line in lines)


def test_without_java_meteor_is_left_out_and_said_so(repository, tmp_path):
    repository.edit("experiments/tiny.yaml", lambda e: e["evaluations"]["captions"].update(meteor=True))
    (tmp_path / "git").symlink_to(shutil.which("git"))
    repository.environment["PATH"] = f"{BIN}:{tmp_path}"
    output = repository.command("glassworks", "evaluate", "tiny").stdout
    assert "METEOR is left out: it is a Java program, and there is no java on the PATH\n" in output
    scores = json.loads((repository.root / "results/tiny/captions/metrics.json").read_text())["systems"]["greedy"]
    assert "cider" in scores and "meteor" not in scores
