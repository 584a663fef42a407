"""Next-token losses count every target once, and ignored targets not at all."""

import pytest
import torch

from glassworks.models.losses import IGNORED, next_token_losses, next_token_metrics

LOGITS = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([[1, 2, 3, IGNORED], [6, IGNORED, IGNORED, IGNORED], [0, 0, 5, 4]])


def test_a_loss_is_the_negative_log_probability_of_its_target():
    losses = next_token_losses(LOGITS, TARGETS)
    expected = -LOGITS.log_softmax(-1).gather(2, TARGETS.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(losses, expected * (TARGETS != IGNORED))
    torch.testing.assert_close(next_token_losses(LOGITS, TARGETS, "sum"), losses.sum())


def test_metrics_are_sums_over_targets():
    right = LOGITS.argmax(-1)
    targets = torch.where(TARGETS == IGNORED, IGNORED, right)
    targets[0, 0] = (right[0, 0] + 1) % 7
    metrics = next_token_metrics(LOGITS, targets)
    assert metrics["accuracy"] == (7, 8)
    assert metrics["loss"] == (pytest.approx(next_token_losses(LOGITS, targets).sum().item()), 8)


def test_metrics_are_computed_in_float32():
    half = LOGITS.bfloat16()
    assert next_token_metrics(half, TARGETS) == next_token_metrics(half.float(), TARGETS)
