"""Ranks of partners, by hand: ties count against the model, and the controls break every pair."""

import tracemalloc

import numpy as np

from glassworks.evaluation.retrieval import ranks as ranks_module
from glassworks.evaluation.retrieval.asif import Asif
from glassworks.evaluation.retrieval.labels import labels
from glassworks.evaluation.retrieval.ranks import Similarities, ranks_of
from glassworks.evaluation.retrieval.ridge import Ridge
from glassworks.evaluation.retrieval.score import chance, gains, summary
from glassworks.evaluation.retrieval.settings import RetrievalEvaluation
from glassworks.evaluation.scoring import exchanged


def test_a_rank_counts_the_partner_and_everything_at_least_as_similar():
    similarities = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.4], [0.0, 0.7, 0.7]])
    assert ranks_of(similarities, np.arange(3)).tolist() == [1, 3, 2]
    assert ranks_of(similarities, np.array([1, 0, 1])).tolist() == [3, 1, 2]


def test_equal_vectors_earn_nothing():
    assert ranks_of(np.ones((4, 4)), np.arange(4)).tolist() == [4, 4, 4, 4]


def test_similarities_are_ranked_a_few_queries_at_a_time(monkeypatch):
    random = np.random.default_rng(0)
    queries, candidates = random.integers(-3, 4, (2, 2000, 8)).astype(np.float64)
    partners = random.permutation(2000)
    monkeypatch.setattr(ranks_module, "CELLS", 1 << 16)
    tracemalloc.start()
    found = Similarities(queries, candidates)
    ranked, nearest = found.ranks(partners), found.nearest()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = queries @ candidates.T
    assert (ranked == ranks_of(whole, partners)).all() and (nearest == whole.argmax(axis=1)).all()
    assert peak < whole.nbytes / 10


def test_recall_and_median_of_ranks():
    found = summary(np.array([1, 2, 6, 11]), resamples=100, seed=0)
    assert [found[f"recall@{k}"]["value"] for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert found["median_rank"] == 4.0


def test_chance_is_the_mean_over_all_orders():
    random = np.random.default_rng(0)
    ranks = np.concatenate([random.permutation(20) + 1 for _ in range(2000)])
    expected = chance(20)
    assert abs((ranks <= 5).mean() - expected["recall@5"]) < 1e-9 and expected["recall@10"] == 0.5
    assert np.median(ranks) == expected["median_rank"]
    assert chance(3)["recall@5"] == 1


def test_every_pair_is_broken_and_every_partner_used_once():
    keys = [f"k{number}" for number in range(50)]
    others = exchanged(keys, 3, "pairs")
    assert sorted(others) == list(range(50)) and not (others == np.arange(50)).any()
    backwards = exchanged(keys[::-1], 3, "pairs")
    assert [keys[::-1][index] for index in backwards][::-1] == [keys[index] for index in others]


def test_the_gain_of_one_right_answer_is_that_of_its_rank():
    np.testing.assert_allclose(gains(np.array([1, 2, 3, 10, 11])), [1, 1 / np.log2(3), 0.5, 1 / np.log2(11), 0])
    assert abs(chance(20)["ndcg@10"] - gains(np.arange(1, 21)).mean()) < 1e-6


def test_ridge_regression_is_the_closed_form_and_takes_the_penalty_that_held_out_samples_prefer():
    random = np.random.default_rng(0)
    sources, noise = random.normal(size=(60, 5)) + 3, random.normal(size=(60, 4))
    weights = random.normal(size=(5, 4))
    targets = sources @ weights + 0.1 * noise
    fitted = Ridge(sources[:40], targets[:40], [1e-2, 1e6])
    fitted.choose(sources[40:], targets[40:])
    assert fitted.strength == 0
    centred, wanted = sources[:40] - sources[:40].mean(0), targets[:40] - targets[:40].mean(0)
    penalty = 1e-2 * np.trace(centred.T @ centred) / 5
    expected = np.linalg.solve(centred.T @ centred + penalty * np.eye(5), centred.T @ wanted)
    np.testing.assert_allclose(fitted.predict(sources), (sources - sources[:40].mean(0)) @ expected, atol=1e-9)
    fitted.choose(sources[:0], targets[:0])
    assert fitted.strength == 1


def test_asif_compares_samples_by_their_nearest_anchors_by_hand():
    """Two of three anchors count, squared: the query lies between the first two, the answers near the second and near the third."""
    sources, targets = (
        np.array([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]]),
        np.array([[0.0, 2.0], [2.0, 0.0], [-2.0, -2.0]]),
    )
    fitted = Asif(sources, targets)
    assert (fitted.count, fitted.power) == (3, 8), (
        "without held-out pairs all anchors count, with the published exponent"
    )
    fitted.count, fitted.power = 2, 2
    query = np.array([1.0, 2.0]) / 5**0.5 @ (sources / np.linalg.norm(sources, axis=1, keepdims=True)).T
    query = np.array([*query[:2] ** 2, 0])
    near_second = np.array([0.6**2, 0.8**2, 0])  # features (0.8, 0.6): cosines 0.6, 0.8 and below 0
    near_third = np.array([0, 0, 1.0])
    expected = [query @ other / np.linalg.norm(query) / np.linalg.norm(other) for other in (near_second, near_third)]
    found = fitted.similarities(np.array([[1.0, 2.0]]), np.array([[0.8, 0.6], [-1.0, -1.0]]))
    np.testing.assert_allclose(found, [expected], atol=1e-12)


def test_asif_takes_the_anchors_and_the_exponent_that_held_out_pairs_prefer():
    random = np.random.default_rng(0)
    shared = random.normal(size=(120, 3))
    sides = [shared @ random.normal(size=(3, width)) + 0.1 * random.normal(size=(120, width)) for width in (8, 6)]
    fitted = Asif(*(side[:80] for side in sides))
    fitted.choose(*(side[80:] for side in sides))

    def score():
        found = fitted.similarities(*(side[80:] for side in sides))
        return sum((1 / ranks_of(one, np.arange(40))).mean() for one in (found, found.T))

    best = score()
    assert best > 4 * np.mean(1 / np.arange(1, 41)), "twice chance in both directions"
    for fitted.count in (10, 30):
        for fitted.power in (1, 2, 4, 8):
            assert score() <= best


def test_labels_mark_emergent_directions_and_have_a_row_and_a_point_for_each_width():
    found = {name: chance(9) for name in ("image_to_audio", "image_to_text")}
    metrics = {"samples": 9, "split": "test", "emergent": ["image_to_audio"]}
    metrics["systems"] = {name: found for name in ("model", "width_4", "shuffled", "ridge", "asif", "chance")}
    shown = labels(metrics, RetrievalEvaluation(), [8, 4], ["image", "audio"])
    groups = dict.fromkeys(column.group for column in shown.table.columns)
    assert list(groups) == ["image to speech (emergent)", "image to text"]
    assert [row.name for row in shown.table.rows] == ["model", "width_4", "shuffled", "ridge", "asif", "chance"]
    assert shown.curve.rows == {"model": 8, "width_4": 4} and "emergent" in shown.table.notes[-1]
    assert [title for _, title in shown.items.answers] == ["nearest to its image", "nearest to its speech"]
    assert labels(metrics, RetrievalEvaluation(), [8], []).curve is None
