"""Rotary positions turn; those of the nanoMolmo2 document do not."""

import pytest
import torch

from glassworks.models.rotary import rotate, rotation

OFFSETS = (0, 5, 50, 500)
SIZE, THETA, DISTANCE = 64, 1e4, 7


def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SIZE, generator=generator), torch.randn(SIZE, generator=generator)


def scores(turn):
    """q.k at a fixed distance from several absolute positions."""
    query, key = vectors()
    return torch.stack([turn(query, offset + DISTANCE) @ turn(key, offset) for offset in OFFSETS])


def ours(x, position):
    by = rotation(torch.tensor([position]), SIZE, THETA)
    return rotate(x.view(1, 1, 1, SIZE), by).view(SIZE)


def documents(x, position):
    """Pairs neighbours, as if the angles were repeated in place, but the angles stand in two halves."""
    angles = position / THETA ** (torch.arange(0, SIZE, 2) / SIZE)
    cosine, sine = torch.cat([angles, angles]).cos(), torch.cat([angles, angles]).sin()
    swapped = torch.stack([-x[1::2], x[0::2]], dim=-1).flatten()
    return x * cosine + swapped * sine


def test_defect_000_1_a_score_depends_on_the_distance_alone():
    ours_, theirs = scores(ours), scores(documents)
    assert (ours_ - ours_[0]).abs().max() < 1e-3 * ours_.abs().max()
    assert (theirs - theirs[0]).abs().max() > 0.1 * theirs.abs().max()


@pytest.mark.parametrize("position", OFFSETS)
def test_rotation_keeps_lengths(position):
    query, _ = vectors()
    assert float(ours(query, position).norm()) == pytest.approx(float(query.norm()), rel=1e-5)


def test_defect_000_2_heads_are_turned_by_position_also_when_there_are_as_many_heads_as_tokens():
    """The document turns [B, T, H, D] by angles [1, 1, T, D]: an error, or with T = H a rotation by the number of the head."""
    heads = tokens = 14
    x = torch.randn(1, 1, tokens, SIZE, generator=torch.Generator().manual_seed(1)).expand(1, heads, tokens, SIZE)
    turned = rotate(x, rotation(torch.arange(tokens), SIZE, THETA))
    assert all(torch.equal(turned[:, head], turned[:, 0]) for head in range(heads))
    assert torch.equal(turned[0, 0, 0], x[0, 0, 0]) and not torch.allclose(turned[0, 0, 1], x[0, 0, 1])


def test_positions_of_a_row_may_be_its_own():
    x = torch.randn(2, 3, 5, SIZE, generator=torch.Generator().manual_seed(2))
    both = rotate(x, rotation(torch.stack([torch.arange(5), torch.arange(4, 9)]), SIZE, THETA))
    torch.testing.assert_close(both[1:], rotate(x[1:], rotation(torch.arange(4, 9), SIZE, THETA)))
