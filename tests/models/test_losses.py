"""Next-token losses count every target once, and ignored targets not at all. The linear cross-entropy equals the loss of all logits."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from glassworks.models import losses
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import IGNORED, linear_cross_entropy, linear_metrics, next_token_losses
from glassworks.models.settings.text_decoder import TextDecoder

LOGITS = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([[1, 2, 3, IGNORED], [6, IGNORED, IGNORED, IGNORED], [0, 0, 5, 4]])


def test_a_loss_is_the_negative_log_probability_of_its_target():
    losses = next_token_losses(LOGITS, TARGETS)
    expected = -LOGITS.log_softmax(-1).gather(2, TARGETS.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(losses, expected * (TARGETS != IGNORED))
    torch.testing.assert_close(next_token_losses(LOGITS, TARGETS, "sum"), losses.sum())


def test_metrics_are_sums_over_targets():
    (hidden, weight, _), targets, token_weights = example()
    logits = F.linear(hidden, weight)
    targets = torch.where((targets == IGNORED) | (targets % 2 == 0), targets, logits.argmax(-1))
    found = linear_cross_entropy(hidden, weight, targets, z_loss=0.1, chunk_bytes=FEW)
    metrics, count = linear_metrics(found, targets), int((targets != IGNORED).sum())
    right = int((logits.argmax(-1) == targets).sum())
    assert 0 < right < count
    assert metrics["accuracy"] == (right, count)
    assert metrics["loss"] == (pytest.approx(next_token_losses(logits, targets, "sum").item(), rel=1e-5), count)
    weighted = linear_cross_entropy(hidden, weight, targets, token_weights=token_weights)
    assert weighted.correct == right and not weighted.correct.requires_grad


ROWS, TOKENS, WIDTH, VOCABULARY = 3, 11, 16, 97
FEW = 4 * 4 * VOCABULARY  # bytes of the logits of four positions


def example(dtype=torch.float32, seed=0):
    """Hidden states, weight and bias that need gradients, targets of which a third is ignored, and token weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    leaves = draw(ROWS, TOKENS, WIDTH), draw(VOCABULARY, WIDTH), draw(VOCABULARY)
    targets = torch.randint(VOCABULARY, (ROWS, TOKENS), generator=generator)
    targets[torch.rand(ROWS, TOKENS, generator=generator) < 1 / 3] = IGNORED
    token_weights = torch.rand(ROWS, TOKENS, generator=generator) * 2
    return [leaf.requires_grad_() for leaf in leaves], targets, token_weights


def full(hidden, weight, targets, bias=None, token_weights=None, z_loss=0.0):
    """The same loss from the logits of all positions, by torch's own functions."""
    logits = F.linear(hidden, weight, bias)
    losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none")
    z_terms = z_loss * logits.to(losses.dtype).logsumexp(-1).flatten() ** 2 * (targets.flatten() != IGNORED)
    scale = 1 if token_weights is None else token_weights.flatten()
    return (scale * (losses + z_terms)).sum(), (scale * z_terms).sum()


def gradients(loss, leaves):
    return torch.autograd.grad(loss, leaves, allow_unused=True)


def assert_near(found, expected, relative):
    """The largest error, relative to the largest element."""
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one.double() - other.double()).abs().max() <= relative * other.double().abs().max()


@contextlib.contextmanager
def count_gradient_products():
    """The matrix products of gradients: those of the logits write into a buffer."""
    products = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            if "mm" in name and function._overloadname != "out":
                products.append(name)
            return function(*args, **(kwargs or {}))

    with Recorder():
        yield products


def peak_allocated(call, folder):
    """Peak bytes of tensors that `call` allocates, from the memory events of torch.profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    memory = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    held = peak = 0
    for _, size in memory:
        held += size
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("chunk_bytes", [1, FEW, 2**27])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_cross_entropy_equals_the_loss_of_all_logits(biased, weighted, z_loss, chunk_bytes):
    (hidden, weight, bias), targets, token_weights = example()
    leaves = [hidden, weight, bias] if biased else [hidden, weight]
    options = {"token_weights": token_weights if weighted else None, "z_loss": z_loss}
    options["bias"] = bias if biased else None
    expected, expected_z = full(hidden, weight, targets, **options)
    found = linear_cross_entropy(hidden, weight, targets, chunk_bytes=chunk_bytes, **options)
    torch.testing.assert_close(found.total, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.z_term, expected_z, rtol=1e-6, atol=0)
    assert not found.z_term.requires_grad
    assert_near(gradients(found.total, leaves), gradients(expected, leaves), 1e-5)


def test_linear_cross_entropy_has_the_gradients_of_finite_differences():
    leaves, targets, token_weights = example(torch.float64)
    hidden, weight, bias = (
        leaf.detach()[part].requires_grad_()
        for leaf, part in zip(leaves, ((..., slice(5)), (slice(7), slice(5)), slice(7)), strict=True)
    )
    targets = torch.where(targets == IGNORED, IGNORED, targets % 7)

    def loss(hidden, weight, bias):
        options = {"token_weights": token_weights, "z_loss": 0.01, "chunk_bytes": 8 * 8 * 7}
        return linear_cross_entropy(hidden, weight, targets, bias, **options).total

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


def test_a_token_weight_of_two_counts_a_token_twice_and_of_zero_not_at_all():
    (hidden, weight, _), targets, _ = example()
    twice = torch.full(targets.shape, 2.0)
    twice[1] = 0
    found = linear_cross_entropy(hidden, weight, targets, token_weights=twice, z_loss=0.01)
    expected = linear_cross_entropy(
        torch.cat([hidden[[0, 2]]] * 2), weight, torch.cat([targets[[0, 2]]] * 2), z_loss=0.01
    )
    torch.testing.assert_close(found.total, expected.total)
    torch.testing.assert_close(found.z_term, expected.z_term)


def test_a_scaled_loss_has_scaled_gradients_however_often_its_graph_is_used():
    leaves, targets, _ = example()
    hidden, weight, _ = leaves
    loss = linear_cross_entropy(hidden, weight, targets).total
    once = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    before = [gradient.clone() for gradient in once]
    for scale in (3.0, 1.0, 0.0):
        for gradient, one in zip(
            torch.autograd.grad(scale * loss, (hidden, weight), retain_graph=True), before, strict=True
        ):
            torch.testing.assert_close(gradient, scale * one)
    for _ in range(2):  # the second pass adds to .grad in place
        loss.backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, 2 * before[1])
    torch.testing.assert_close(once, tuple(before), rtol=0, atol=0)


def test_a_second_derivative_is_refused():
    (hidden, weight, _), targets, _ = example()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(linear_cross_entropy(hidden, weight, targets).total, hidden, create_graph=True)


def test_two_uses_in_one_graph_add_their_gradients():
    (hidden, weight, _), targets, _ = example()
    other = targets.flip(0)
    found = linear_cross_entropy(hidden, weight, targets).total
    found = found + 0.3 * linear_cross_entropy(hidden.tanh(), weight, other, z_loss=0.01).total
    expected = full(hidden, weight, targets)[0] + 0.3 * full(hidden.tanh(), weight, other, z_loss=0.01)[0]
    assert_near(gradients(found, (hidden, weight)), gradients(expected, (hidden, weight)), 1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_gives_its_features_and_its_head(tied):
    torch.manual_seed(0)
    model = LanguageModel(TextDecoder(width=WIDTH, depth=2, heads=2, max_tokens=TOKENS, tied=tied), VOCABULARY)
    _, targets, _ = example()
    ids = targets.clamp(min=0)
    documents = torch.arange(TOKENS).expand(ROWS, -1) // 4
    logits = model(ids, documents)
    features, head = model.hidden(ids, documents), model.decoder.head_weight
    assert torch.equal(F.linear(features, head), logits)
    assert (head is model.decoder.tokens.weight) == tied
    parameters = list(model.parameters())
    expected = torch.autograd.grad(next_token_losses(logits, targets, "sum"), parameters)
    found = torch.autograd.grad(linear_cross_entropy(features, head, targets, chunk_bytes=FEW).total, parameters)
    assert_near(found, expected, 1e-5)


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias", None])
def test_only_gradients_that_are_needed_are_computed(trained):
    leaves, targets, _ = example()
    expected = gradients(full(*leaves[:2], targets, leaves[2])[0], leaves)
    needed = dict(zip(("hidden", "weight", "bias"), leaves, strict=True))
    for name, leaf in needed.items():
        leaf.requires_grad_(name == trained)
    with count_gradient_products() as products:
        loss = linear_cross_entropy(*leaves[:2], targets, leaves[2]).total
    assert loss.requires_grad == (trained is not None)
    assert products == {"hidden": ["mm"], "weight": ["addmm_"]}.get(trained, [])
    if trained:
        loss.backward()
        for leaf, gradient in zip(leaves, expected, strict=True):
            if leaf.requires_grad:
                assert_near([leaf.grad], [gradient], 1e-5)
            else:
                assert leaf.grad is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_loss_has_the_same_bits_and_none_are_computed(context):
    leaves, targets, _ = example()
    trained = linear_cross_entropy(*leaves[:2], targets, leaves[2]).total
    with context(), count_gradient_products() as products:
        loss = linear_cross_entropy(*leaves[:2], targets, leaves[2]).total
    assert torch.equal(loss, trained.detach())
    assert not loss.requires_grad
    assert products == []


@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_without_targets_loss_and_gradients_are_zero(shape):
    (_, weight, bias), _, _ = example()
    hidden = torch.randn(*shape, WIDTH, requires_grad=True)
    found = linear_cross_entropy(hidden, weight, torch.full(shape, IGNORED), bias, z_loss=0.1)
    assert found.total == found.z_term == 0
    for leaf, gradient in zip((hidden, weight, bias), gradients(found.total, (hidden, weight, bias)), strict=True):
        assert torch.equal(gradient, torch.zeros_like(leaf))


def test_ignored_positions_have_no_influence_even_if_they_are_not_finite():
    (hidden, weight, _), targets, _ = example()
    spoiled = torch.where((targets == IGNORED)[..., None], torch.nan, hidden.detach()).requires_grad_()
    clean, found = linear_cross_entropy(hidden, weight, targets), linear_cross_entropy(spoiled, weight, targets)
    assert torch.equal(clean.total, found.total)
    own = gradients(found.total, (spoiled, weight))
    assert all(torch.equal(*pair) for pair in zip(own, gradients(clean.total, (hidden, weight)), strict=True))
    assert (own[0][targets == IGNORED] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_losses_and_gradients_in_float32(dtype):
    """Of many equal chunks, so that a sum in half precision would stop growing."""
    leaves, _, _ = example(dtype)
    hidden = leaves[0].detach()[0, :1].repeat(3000, 1).requires_grad_()
    targets, weight = torch.zeros(3000, dtype=torch.long), leaves[1]
    found = linear_cross_entropy(hidden, weight, targets, chunk_bytes=30 * 6 * VOCABULARY).total
    logits = F.linear(hidden[0], weight).detach().float()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, 3000 * F.cross_entropy(logits, targets[0]), rtol=1e-5, atol=0)
    exact = (logits.softmax(0) - F.one_hot(targets[0], VOCABULARY))[:, None] * hidden[0].detach().float() * 3000
    own = gradients(found, (hidden, weight))
    assert [gradient.dtype for gradient in own] == [dtype, dtype]
    assert_near([own[1].float()], [exact], 2**-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_the_logits_but_not_the_sums(dtype, monkeypatch):
    monkeypatch.setattr(losses, "PRODUCT_ROWS", 10)
    leaves, targets, token_weights = example()
    options = {"token_weights": token_weights, "z_loss": 0.01}
    exact = full(*leaves[:2], targets, leaves[2], **options)[0]
    with torch.autocast("cpu", dtype):
        found = linear_cross_entropy(*leaves[:2], targets, leaves[2], chunk_bytes=FEW, **options).total
        expected = full(*leaves[:2], targets, leaves[2], **options)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert not torch.allclose(found, exact, rtol=1e-6), "the logits are not rounded"
    own = gradients(found, leaves)
    assert [gradient.dtype for gradient in own] == [torch.float32] * 3
    assert_near(own, gradients(exact, leaves), 2e-2)


def test_float16_keeps_gradients_that_underflow_before_loss_scaling():
    (hidden, weight, _), _, _ = example()
    hidden, weight = hidden.detach()[:1, :1], (weight.detach() * 0.01)
    weight[0] = 25 * hidden[0, 0] / hidden.norm() ** 2  # a probability near one; the others are near e-11
    weight.requires_grad_()
    loss = full(hidden, weight, torch.zeros(1, 1, dtype=torch.long))[0]
    (exact,) = gradients(loss, [weight])
    assert 0 < exact[1:].abs().max() < torch.finfo(torch.float16).smallest_normal / 2**10
    with torch.autocast("cpu", torch.float16):
        found = linear_cross_entropy(hidden, weight, torch.zeros(1, 1, dtype=torch.long)).total
    (own,) = gradients(2.0**16 * found, [weight])
    assert_near([own[1:]], [2.0**16 * exact[1:]], 5e-2)


def test_the_weight_gets_its_gradient_without_a_copy():
    """Else training would hold a second weight gradient."""
    (hidden, weight, _), targets, _ = example()
    loss = linear_cross_entropy(hidden, weight, targets).total
    saved = loss.grad_fn.saved_tensors[1].data_ptr()
    loss.backward()
    assert weight.grad.data_ptr() == saved


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"targets": torch.zeros(3, 4, dtype=torch.long)}, r"targets have the shape \[3, 4\], not \[3, 11\]"),
        ({"token_weights": torch.ones(3)}, r"token_weights must have the shape \[3, 11\]"),
        ({"token_weights": torch.ones(3, 11, requires_grad=True)}, "need no gradient"),
    ],
)
def test_wrong_shapes_are_refused(wrong, message):
    (hidden, weight, _), targets, _ = example()
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**{"hidden": hidden, "weight": weight, "targets": targets, **wrong})


@pytest.mark.parametrize("target", [-1, VOCABULARY])
def test_a_target_outside_the_vocabulary_is_refused(target):
    (hidden, weight, _), targets, _ = example()
    targets[1, 3] = target
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        linear_cross_entropy(hidden, weight, targets)


def test_peak_memory_does_not_grow_with_the_vocabulary_beyond_the_weight_gradient(tmp_path):
    width, positions, chunk_bytes = 8, 128, 2**22

    def excess(loss, vocabulary):
        """Peak of a forward and a backward pass beyond the gradient of the weight."""
        torch.manual_seed(0)
        hidden = torch.randn(positions, width, requires_grad=True)
        weight = torch.randn(vocabulary, width, requires_grad=True)
        targets = torch.randint(vocabulary, (positions,))
        return peak_allocated(lambda: loss(hidden, weight, targets).backward(), tmp_path) - weight.nbytes

    small, large = (
        excess(lambda *inputs: linear_cross_entropy(*inputs, chunk_bytes=chunk_bytes).total, vocabulary)
        for vocabulary in (49_152, 151_936)
    )
    assert max(small, large) < 1.1 * chunk_bytes
    assert large < 1.1 * small
    assert excess(lambda *inputs: full(*inputs)[0], 49_152) > 49_152 * positions * 4, "the measure sees no logits"


def test_one_thread_gives_the_same_bytes_however_it_is_set():
    variants = [{"OMP_NUM_THREADS": "1"}, {"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, {}]
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, **variant}, check=True, capture_output=True, text=True
        ).stdout
        for variant in variants
    }
    assert len(digests) == 1, digests
    assert len(digests.pop().strip()) == 64


DIGEST = """
import hashlib, torch
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
from glassworks.models.losses import linear_cross_entropy
torch.manual_seed(0)
hidden, weight = torch.randn(2, 100, 64, requires_grad=True), torch.randn(5000, 64, requires_grad=True)
targets = torch.randint(5000, (2, 100))
digest = hashlib.sha256()
for _ in range(2):
    loss = linear_cross_entropy(hidden, weight, targets, z_loss=1e-3, chunk_bytes=2**20).total
    for tensor in (loss.detach(), *torch.autograd.grad(loss, (hidden, weight))):
        digest.update(tensor.numpy().tobytes())
print(digest.hexdigest())
"""
