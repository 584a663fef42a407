"""The Tiny Recursive Model: the published recursion, against an unrolled reference written here."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from glassworks.errors import ArtifactError
from glassworks.models.recursive import Recursive, stablemax_cross_entropy
from glassworks.models.settings.recursive import Recursive as Config

CELLS, SYMBOLS = 6, 4
SMALL = {"width": 8, "heads": 2, "inner": 12, "inner_recursions": 3, "outer_recursions": 2}


def a_model(**settings) -> Recursive:
    torch.manual_seed(0)
    model = Recursive(Config(**{**SMALL, **settings}), CELLS, SYMBOLS).double()
    with torch.no_grad():
        model.prefix.normal_()
        model.halting.weight.normal_()
    return model


BOARDS = torch.tensor([[0, 1, 2, 3, 0, 0], [3, 0, 0, 0, 1, 2]])


@dataclass
class Reference:
    """The equations of the paper, one line for each update, with the weights of a model."""

    model: Recursive

    def norm(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    def turned(self, x: Tensor) -> Tensor:
        """Rotary positions of x [B, T, D] by complex numbers: dimension i is paired with i + D / 2."""
        half = x.shape[-1] // 2
        angles = torch.arange(x.shape[1])[:, None].double() * 10000.0 ** -(torch.arange(half).double() / half)
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], -1)

    def network(self, x: Tensor) -> Tensor:
        for layer in self.model.layers:
            if self.model.config.mixer == "attention":
                queries, keys, values = (x @ layer.mix.qkv.weight.T).chunk(3, -1)
                heads = []
                for query, key, value in zip(*(part.chunk(2, -1) for part in (queries, keys, values)), strict=True):
                    scores = self.turned(query) @ self.turned(key).mT / math.sqrt(query.shape[-1])
                    heads.append(scores.softmax(-1) @ value)
                mixed = torch.cat(heads, -1) @ layer.mix.out.weight.T
            else:
                gate, value = (x.mT @ layer.mix.inner.weight.T).chunk(2, -1)
                mixed = ((F.silu(gate) * value) @ layer.mix.out.weight.T).mT
            x = self.norm(x + mixed)
            gate, value = (x @ layer.feed_forward.inner.weight.T).chunk(2, -1)
            x = self.norm(x + (F.silu(gate) * value) @ layer.feed_forward.out.weight.T)
        return x

    def step(self, y: Tensor, z: Tensor, boards: Tensor, full: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One supervision step with n = 3 and T = 2."""
        model = self.model
        x = torch.cat([model.prefix.expand(len(boards), -1, -1), model.embedding(boards)], 1) * math.sqrt(8)
        frozen = x.detach()
        with torch.no_grad():
            z = self.network(z + y + frozen)
            z = self.network(z + y + frozen)
            z = self.network(z + y + frozen)
            y = self.network(y + z)
        z = self.network(z + y + x)
        z = self.network(z + y + x)
        z = self.network((z if full else z.detach()) + y + x)
        y = self.network(y + z)
        return y, z, y[:, 1:] @ model.head.weight.T, (y[:, 0] @ model.halting.weight.T + model.halting.bias)[:, 0]

    def begin(self, count: int) -> tuple[Tensor, Tensor]:
        model = self.model
        return tuple(  # type: ignore[return-value]
            state.expand(count, 1 + CELLS, -1) for state in (model.initial_answer, model.initial_latent)
        )


def gradients(model: Recursive, total: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return {name: value for name, value in zip(names, found, strict=True) if value is not None}


@pytest.mark.parametrize("mixer", ["attention", "mlp"])
@pytest.mark.parametrize("gradient", ["last_round", "one_step"])
def test_two_supervision_steps_equal_the_unrolled_equations(mixer, gradient):
    model = a_model(mixer=mixer, gradient=gradient)
    reference = Reference(model)
    first = model(BOARDS)
    second = model(BOARDS, tuple(state.detach() for state in first.states))
    y, z = reference.begin(2)
    full = gradient == "last_round"
    y, z, *_ = reference.step(y, z, BOARDS, full)
    y, z, logits, halting = reference.step(y.detach(), z.detach(), BOARDS, full)
    for found, expected in ((second.states[0], y), (second.states[1], z), (second.logits, logits)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # angles are float32
    torch.testing.assert_close(second.halting.double(), halting, rtol=0, atol=1e-5)
    weights = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = gradients(model, (second.logits * weights).sum() + second.halting.double().sum())
    expected = gradients(model, (logits * weights).sum() + halting.sum())
    assert own.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, value in own.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=name)


def test_one_step_gradient_differs_from_that_of_the_last_round():
    of_round, of_step = (
        gradients(model, model(BOARDS).logits.square().sum())
        for model in (a_model(gradient=gradient) for gradient in ("last_round", "one_step"))
    )
    assert any(not torch.allclose(of_round[name], of_step[name]) for name in of_round)


@pytest.mark.parametrize(("n", "rounds"), [(1, 1), (2, 3), (6, 3)])
def test_a_step_calls_the_network_t_times_n_plus_1_times_and_keeps_the_graph_of_the_last_round(n, rounds):
    model = a_model(inner_recursions=n, outer_recursions=rounds)
    graphs: list[bool] = []
    model.layers[0].register_forward_hook(lambda layer, inputs, output: graphs.append(output.requires_grad))
    step = model(BOARDS)
    assert graphs == [False] * (rounds - 1) * (n + 1) + [True] * (n + 1)
    assert step.logits.shape == (2, CELLS, SYMBOLS) and step.halting.shape == (2,)
    assert all(state.shape == (2, 1 + CELLS, 8) for state in step.states)


def test_no_gradient_reaches_the_states_of_the_step_before():
    model = a_model()
    states = tuple(torch.randn(2, 1 + CELLS, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    total = model(BOARDS, states).logits.sum()
    assert torch.autograd.grad(total, states, allow_unused=True) == (None, None)


def test_initial_states_are_fixed_and_a_fresh_model_halts_nowhere():
    torch.manual_seed(0)
    model = Recursive(Config(**SMALL), CELLS, SYMBOLS)
    assert {"initial_answer", "initial_latent"} == {name for name, _ in model.named_buffers()}
    assert model(BOARDS).halting.tolist() == [-5.0, -5.0]
    assert (model.initial_answer != model.initial_latent).all()


def test_attention_looks_in_both_directions():
    model = a_model()
    changed = BOARDS.clone()
    changed[:, -1] = 3 - changed[:, -1]
    assert (model(BOARDS).logits[:, 0] != model(changed).logits[:, 0]).any()


def test_parameters_are_those_of_two_layers_whatever_the_recursion():
    count = {
        (n, rounds): sum(p.numel() for p in a_model(inner_recursions=n, outer_recursions=rounds).parameters())
        for n, rounds in ((1, 1), (6, 3))
    }
    layer = 4 * 8 * 8 + 3 * 8 * 12
    assert set(count.values()) == {2 * layer + 2 * SYMBOLS * 8 + 8 + 8 + 1}
    assert Config(width=512).inner_width == 1376  # 8/3 of 512 is 1365.3


def test_stablemax_by_hand():
    """s(1) = 2, s(0) = 1, s(-1) = 1/2: the loss of class 0 is -log(2 / 3.5)."""
    logits = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    loss = stablemax_cross_entropy(logits, torch.tensor([0]))
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(math.log(3.5 / 2))
    loss.sum().backward()
    # d/dx of log(sum) - log(s0): 1/3.5 - 1/2 for class 0, 1/3.5 for class 1, s'(-1)/3.5 = 0.25/3.5
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([1 / 3.5 - 1 / 2, 1 / 3.5, 0.25 / 3.5])
    assert stablemax_cross_entropy(torch.tensor([[3e38, -3e38]]), torch.tensor([1])).isfinite().all()


def test_a_saved_model_gives_the_same_answer(tmp_path):
    torch.manual_seed(3)
    model = Recursive(Config(**SMALL), CELLS, SYMBOLS)
    model.save(tmp_path)
    again = Recursive.load(tmp_path)
    assert (again(BOARDS).logits == model(BOARDS).logits).all()
    (tmp_path / "config.json").write_text('{"model": "alignment"}')
    with pytest.raises(ArtifactError, match="not a saved recursive model"):
        Recursive.load(tmp_path)


def test_heads_must_cut_the_width_into_even_parts():
    with pytest.raises(ValueError, match="3 heads do not cut width 64"):
        Config(heads=3)
