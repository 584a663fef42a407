"""Sums in a fixed tree: the same bits however the leaves are spread over workers."""

import pytest
import torch

from glassworks.training.reduction import TreeSum, clip_by_norm, mean_of_sums


def leaves(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1000, generator=generator) * 10 ** torch.randint(-6, 6, (1,), generator=generator)
        for _ in range(count)
    ]


def tree(tensors: list[torch.Tensor]) -> torch.Tensor:
    total = TreeSum()
    for tensor in tensors:
        total.add([tensor.clone()])
    return total.total()[0]


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_workers_that_hold_whole_subtrees_get_the_same_bits(workers):
    parts, size = leaves(8), 8 // workers
    partial = [tree(parts[start : start + size]) for start in range(0, 8, size)]
    assert torch.equal(tree(partial), tree(parts))


def test_the_order_of_a_running_sum_would_have_mattered():
    parts = leaves(8)
    assert not torch.equal(sum(parts[1:], parts[0].clone()), tree(parts))


def test_at_most_log_n_plus_one_partial_sums_are_held():
    total = TreeSum()
    for index, tensor in enumerate(leaves(64)):
        total.add([tensor])
        assert len(total._partial) <= (index + 1).bit_length()


def test_a_number_of_leaves_that_is_no_power_of_two_is_refused():
    with pytest.raises(AssertionError):
        tree(leaves(6))


def test_clipping_scales_to_the_limit_and_reports_the_norm_before():
    gradients = mean_of_sums([torch.tensor([6.0, 0.0]), torch.tensor([[8.0]])], 2)
    assert clip_by_norm(gradients, 1.0) == pytest.approx(5.0)
    assert torch.cat([g.flatten() for g in gradients]).norm().item() == pytest.approx(1.0)
    assert clip_by_norm(gradients, None) == pytest.approx(1.0)
