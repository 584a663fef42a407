"""The gated feed-forward part keeps its inner features alone for the backward pass, and computes the bits of the plain formula."""

import pytest
import torch

from glassworks.models.feed_forward import GATES, FeedForward, gated

TOKENS, WIDTH, INNER = 10, 8, 24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", GATES)
def test_recomputed_gates_have_the_bits_of_the_plain_formula(kind, dtype):
    torch.manual_seed(0)
    part = FeedForward(WIDTH, INNER, kind).to(dtype)
    x = torch.randn(3, TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    wanted = torch.randn(3, TOKENS, WIDTH, dtype=dtype)
    plain = part.out(gated(part.inner(x), GATES[kind]))
    found = part(x)
    assert torch.equal(found, plain)
    inputs = [x, *part.parameters()]
    pairs = zip(torch.autograd.grad(found, inputs, wanted), torch.autograd.grad(plain, inputs, wanted), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("kind", GATES)
def test_the_backward_pass_keeps_no_output_of_the_gate(kind):
    part = FeedForward(WIDTH, INNER, kind)
    part.requires_grad_(False)
    sizes = []

    def keep(tensor):
        if tensor.dim() == 3:
            sizes.append(tensor.shape[-1])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        part(torch.randn(3, TOKENS, WIDTH, requires_grad=True))
    assert sizes == [2 * INNER]
