"""Repetition penalty and random draws do what their papers say, on every row and without changing their input."""

import pytest
import torch

from glassworks.generation.sampling import draw, penalise, uniforms
from glassworks.generation.settings import Decoding


def shares(logits, settings, draws=20_000):
    """How often each token is drawn from the same logits [V]."""
    uniform = uniforms(0, ["one"], draws)[0]
    tokens = draw(logits.expand(draws, -1), uniform, settings)
    return torch.bincount(tokens, minlength=len(logits)) / draws


LOGITS = torch.tensor([0.5, 0.05, 0.3, 0.15]).log()


def test_defect_003_6_1_the_repetition_penalty_reaches_all_rows():
    """The handbook's version indexes row 0 whatever the batch."""
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    expected = torch.tensor([[1.0, -4.0, 1.0], [2.0, -4.0, 0.5], [2.0, -2.0, 1.0]])
    assert torch.equal(penalise(logits, seen, 2.0), expected)


def test_defect_003_6_1_the_repetition_penalty_leaves_its_logits_alone():
    """The handbook's version writes into the logits that it was given."""
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    before = logits.clone()
    penalise(logits, torch.tensor([[True, True, True]]), 2.0)
    assert torch.equal(logits, before)


def test_draws_follow_the_probabilities():
    torch.testing.assert_close(shares(LOGITS, Decoding(temperature=1.0)), LOGITS.exp(), atol=0.015, rtol=0)


def test_temperature_sharpens_and_flattens():
    for temperature in (0.5, 2.0):
        found = shares(LOGITS, Decoding(temperature=temperature))
        torch.testing.assert_close(found, (LOGITS / temperature).softmax(0), atol=0.015, rtol=0)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"top_k": 2}, [0, 2]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.75}, [0, 2]),
        ({"top_p": 0.85}, [0, 2, 3]),
        ({"top_p": 0.01}, [0]),
        ({"min_p": 0.35}, [0, 2]),
        ({"top_k": 3, "min_p": 0.35}, [0, 2]),
        ({"top_k": 2, "top_p": 0.6}, [0]),  # 0.5 of the 0.8 that top-k leaves is more than 0.6
    ],
)
def test_what_is_not_among_the_likeliest_is_never_drawn_and_the_rest_keeps_its_proportions(limits, kept):
    expected = torch.zeros(4)
    expected[kept] = LOGITS.exp()[kept]
    found = shares(LOGITS, Decoding(temperature=1.0, **limits))
    torch.testing.assert_close(found, expected / expected.sum(), atol=0.015, rtol=0)
    assert not found[expected == 0].any()


def test_the_numbers_of_a_row_depend_on_its_own_stream_alone():
    alone = uniforms(5, ["b"], 40)
    assert torch.equal(uniforms(5, ["a", "b", "c"], 40)[1:2], alone)
    assert torch.equal(uniforms(5, ["b"], 7), alone[:, :7]), "a longer text begins as the shorter one"
    assert not torch.equal(uniforms(6, ["b"], 40), alone)


def test_the_last_possible_number_draws_a_possible_token():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    largest = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert draw(logits, largest, Decoding(temperature=1.0)).item() == 1
