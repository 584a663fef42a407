"""Contrastive losses equal the published formulas by hand, and nothing that a batch may lack makes them or their gradients NaN."""

import math

import pytest
import torch
from torch.nn import functional as F

from glassworks.models.alignment import Alignment, prefix
from glassworks.models.contrastive import equal_rows, info_nce, neighbourhood_loss, sigmoid_loss
from glassworks.models.settings.alignment import Alignment as AlignmentConfig
from glassworks.tasks.alignment.task import AlignmentTask, Batch, mixed
from tests.training.engine import fresh, train
from tests.training.objectives import SIDE, Pairs, pairs

LEFT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
RIGHT = torch.tensor([[1.0, 0.0], [0.6, 0.8]])


def test_info_nce_is_the_published_formula():
    """By hand for two pairs: similarities 1, 0.6, 0 and 0.8, times 2."""
    left = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    rows = math.log1p(math.exp(1.2 - 2.0)) + math.log1p(math.exp(0.0 - 1.6))
    columns = math.log1p(math.exp(0.0 - 2.0)) + math.log1p(math.exp(1.2 - 1.6))
    loss = info_nce(left, right, torch.tensor([2.0]))
    torch.testing.assert_close(loss, torch.tensor((rows + columns) / 2), rtol=0, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(left, right, torch.tensor([2.0])), loss)


def test_info_nce_of_a_single_pair_is_zero_with_a_finite_gradient():
    left = torch.tensor([[0.6, 0.8]], requires_grad=True)
    loss = info_nce(left, torch.tensor([[1.0, 0.0]]), torch.tensor([100.0]))
    loss.backward()
    assert loss == 0 and torch.equal(left.grad, torch.zeros(1, 2))


def test_the_temperature_stays_within_its_limits_and_can_return_from_beyond_them():
    model = Alignment(AlignmentConfig(width=4), {"image": {"width": 3}, "text": {"width": 5}})
    assert model.scale().item() == pytest.approx(1 / 0.07)
    for value, scale in ((9.0, 100.0), (-2.0, 1.0)):
        model.log_scale.data.fill_(value)
        model.log_scale.grad = None
        model.scale().sum().backward()
        assert model.scale().item() == pytest.approx(scale) and model.log_scale.grad.item() == pytest.approx(scale)
    vectors = model({"text": torch.zeros(2, 5)})  # an empty sound, a modality that is missing
    assert vectors.keys() == {"text"} and vectors["text"].isfinite().all()


def test_the_sigmoid_loss_is_the_published_formula():
    """By hand: similarities 1, 0.6, 0 and 0.8, times 10, minus 10; own pairs are positive, the others negative."""
    softplus = [math.log1p(math.exp(value)) for value in (-0.0, -4.0, -10.0, 2.0)]
    loss = sigmoid_loss(LEFT, RIGHT, torch.tensor([10.0]), torch.tensor([-10.0]))
    torch.testing.assert_close(loss, torch.tensor(sum(softplus)), rtol=0, atol=1e-6)
    model = Alignment(AlignmentConfig(width=4, loss="sigmoid"), {"image": {"width": 3}, "text": {"width": 5}})
    assert model.log_scale.item() == pytest.approx(math.log(10)) and model.bias.item() == -10
    torch.testing.assert_close(model.loss(LEFT, RIGHT), loss)


def test_equal_samples_are_not_negatives_of_each_other():
    left = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_()
    texts = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    equal = equal_rows(texts)
    assert equal.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    right = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    logits = 2 * left @ right.T
    rows = [logits[i, keep].logsumexp(0) - logits[i, i] for i, keep in enumerate(([0, 1], [0, 1, 2], [1, 2]))]
    columns = [logits[keep, i].logsumexp(0) - logits[i, i] for i, keep in enumerate(([0, 1], [0, 1, 2], [1, 2]))]
    loss = info_nce(left, right, torch.tensor([2.0]), equal)
    torch.testing.assert_close(loss, (sum(rows) + sum(columns)) / 2)
    signs = torch.tensor([[1.0, -1, 0], [-1, 1, -1], [0, -1, 1]])
    expected = torch.where(signs != 0, F.softplus(-signs * (logits - 1)), 0).sum()
    torch.testing.assert_close(sigmoid_loss(left, right, torch.tensor([2.0]), torch.tensor([-1.0]), equal), expected)
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert info_nce(left, right, torch.tensor([2.0]), everything) == 0  # no negatives are left


def test_the_loss_between_neighbours_is_the_published_formula():
    """Row by row: unit vectors without their mean, the softmax of their similarities, and the mean of two divergences from the middle."""
    draw = torch.Generator().manual_seed(0)
    sides = (
        torch.randn(5, 3, generator=draw, dtype=torch.float64),
        torch.randn(5, 4, generator=draw, dtype=torch.float64),
    )
    rows = []
    for side in sides:
        unit = side / side.norm(dim=1, keepdim=True)
        unit = unit - unit.mean(0)
        rows.append((unit @ unit.T / 0.5).softmax(1))
    middle = (rows[0] + rows[1]) / 2
    expected = sum((side * (side / middle).log()).sum() for side in rows) / 2
    found = neighbourhood_loss(*(side.float() for side in sides), temperature=0.5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    assert neighbourhood_loss(sides[0], 3 * sides[0]) == pytest.approx(0, abs=1e-5), "the same neighbours"


def test_a_prefix_is_normalised_again_and_a_missing_vector_stays_zero():
    vectors = torch.tensor([[0.6, 0.0, 0.8], [0.0, 0.0, 0.0]], requires_grad=True)
    found = prefix(vectors, 2)
    assert found.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    found[0].sum().backward()
    assert vectors.grad.isfinite().all()


class TriModal(AlignmentTask):
    """Three modalities made from the pairs of the engine's tests. Some samples lack the image, some the sound, and some texts are equal."""

    def __init__(self, complete: bool = False, dropout: float = 0.2, mixup: float = 0.0, **config) -> None:
        settings = {"width": 8, "head": "linear", "pairs": [["image", "text"], ["audio", "text"]], "widths": [8, 4]}
        towers = {name: {"width": SIDE} for name in ("image", "audio", "text")}
        super().__init__(AlignmentConfig(**{**settings, "dropout": dropout, **config}), towers, {}, {}, mixup=mixup)
        self.complete = complete

    def batch(self, given: Pairs) -> Batch:
        numbers = torch.tensor([int(key) for key in given.keys])
        text = torch.where((numbers % 5 == 0)[:, None], torch.ones(SIDE), given.y)
        present = {"image": numbers % 3 != 0, "audio": numbers % 4 != 1, "text": numbers >= 0}
        features = {"image": given.x, "audio": given.x.roll(2, dims=1).sin(), "text": text}
        everything = torch.ones(len(numbers), dtype=torch.bool)
        made = {
            name: {"features": values, "present": everything if self.complete else present[name]}
            for name, values in features.items()
        }
        return Batch(given.keys, made, {}, {}, torch.zeros(len(numbers)))

    def embed(self, model, batch):
        return super().embed(model, batch if isinstance(batch, Batch) else self.batch(batch))


def test_any_number_of_workers_ends_with_the_same_bytes_though_samples_lack_modalities(tmp_path):
    task = TriModal(loss="sigmoid", equal="text", structure=2.0, mixup=1.0)
    found = [train(fresh(tmp_path / str(count)), task, count)["sha256"] for count in (1, 2)]
    assert found[0] == found[1]


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_the_loss_and_its_gradient_do_not_depend_on_the_cut_into_micro_batches(loss):
    """The embeddings of micro-batches are the rows of those of the whole batch, and the loss sees the whole batch."""
    task = TriModal(loss=loss, equal="text", dropout=0.0)
    torch.manual_seed(0)
    model = task.build()
    whole = task.embed(model, pairs(0, 0, 16))
    parts = [task.embed(model, pairs(0, start, 4)) for start in range(0, 16, 4)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in whole}
    losses = [task.coupled_loss(model, one) for one in (whole, joined)]
    gradients = [torch.autograd.grad(one.total, list(model.parameters())) for one in losses]
    torch.testing.assert_close(losses[0].total, losses[1].total)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_pair_counts_the_samples_that_have_both_modalities():
    task = TriModal(dropout=0.0, widths=[])
    torch.manual_seed(0)
    model = task.build()
    vectors = task.embed(model, pairs(0, 0, 12))
    loss = task.coupled_loss(model, vectors)
    image, audio = (vectors[name].any(1) for name in ("image", "audio"))
    assert (int(image.sum()), int(audio.sum())) == (8, 9)
    by_hand = [
        info_nce(vectors[name][keep], vectors["text"][keep], model.scale()) / keep.sum()
        for name, keep in (("image", image), ("audio", audio))
    ]
    torch.testing.assert_close(loss.total / loss.weight, sum(by_hand) / 2)
    assert loss.parts["image_text"][1] == 8 and loss.parts["audio_text"][1] == 9


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
@pytest.mark.parametrize("case", ["one sample", "no image", "nothing", "silence"])
def test_nothing_that_a_batch_lacks_gives_nan(loss, case):
    task = TriModal(complete=True, loss=loss, equal="text")
    torch.manual_seed(0)
    model = task.build()
    batch = task.batch(pairs(0, 0, 1 if case == "one sample" else 6))
    for name in {"no image": ["image"], "nothing": ["image", "audio", "text"]}.get(case, []):
        batch.features[name]["present"] = torch.zeros(len(batch.keys), dtype=torch.bool)
    if case == "silence":
        batch.features["audio"]["features"] = torch.zeros(6, SIDE)
    found = task.loss(model, batch)
    found.total.backward()
    assert found.weight == (0 if case == "nothing" else len(batch.keys)) and found.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(math.isfinite(value) for pair in task.validate(model.eval(), batch).values() for value in pair)
    if case == "no image":
        assert found.parts["image_text"][1] == 0 and model.heads["image"].project.weight.grad is None


def test_the_loss_of_widths_is_their_weighted_sum():
    torch.manual_seed(0)
    task = TriModal(complete=True, dropout=0.0, width_weights=[1.0, 0.5])
    model = task.build()
    vectors = task.embed(model, pairs(0, 0, 6))
    found = task.coupled_loss(model, vectors)
    single = {
        width: sum(
            model.loss(prefix(vectors[name], width), prefix(vectors["text"], width)) for name in ("image", "audio")
        )
        for width in (8, 4)
    }
    torch.testing.assert_close(found.total, (single[8] + 0.5 * single[4]) / 2)
    torch.testing.assert_close(found.parts["width_4"][0], single[4].detach() / 2)


@pytest.mark.parametrize("widths", [[], [8, 4]])
def test_the_loss_between_neighbours_is_added_in_training_for_every_modality(widths):
    plain, task = TriModal(dropout=0.0, widths=widths), TriModal(dropout=0.0, widths=widths, structure=3.0)
    torch.manual_seed(0)
    model = task.build()
    given = task.batch(pairs(0, 0, 12))
    found, without = task.loss(model, given), plain.loss(model, given)
    vectors, terms = plain.embed(model, given), []
    for name in task.towers:
        own = given.features[name]["present"]
        terms.append(neighbourhood_loss(given.features[name]["features"][own], vectors[name][own]) / own.sum())
    torch.testing.assert_close(found.total, without.total + 3 * 12 * sum(terms))
    torch.testing.assert_close(found.parts["structure"][0], 12 * sum(terms).detach())
    assert task.loss(model.eval(), given).total == plain.loss(model, given).total


def test_mixed_samples_have_one_weight_in_all_modalities_and_the_same_modalities():
    draw = torch.Generator().manual_seed(0)
    values = {name: torch.randn(64, 3, generator=draw) for name in ("image", "text")}
    present = {"image": torch.arange(64) % 3 != 0, "text": torch.ones(64, dtype=torch.bool)}
    values["image"] *= present["image"][:, None]
    torch.manual_seed(0)
    others, weights = torch.randperm(64), torch.distributions.Beta(1.0, 1.0).sample((64,))
    torch.manual_seed(0)
    found, changed = mixed(values, present, 1.0), 0
    for index, (other, weight) in enumerate(zip(others.tolist(), weights, strict=True)):
        alike = bool(present["image"][index] == present["image"][other])
        for name, some in values.items():
            expected = weight * some[index] + (1 - weight) * some[other] if alike else some[index]
            torch.testing.assert_close(found[name][index], expected)
        changed += alike and index != other
    assert 20 < changed < 60
    assert torch.equal(found["image"][::3], torch.zeros(22, 3)), "a missing image stays missing"


def test_features_are_mixed_in_training_only():
    task = TriModal(complete=True, dropout=0.0, mixup=0.5)
    torch.manual_seed(0)
    model = task.build()
    batch = task.batch(pairs(0, 0, 6))
    plain = TriModal(complete=True, dropout=0.0).embed(model, batch)
    assert not torch.allclose(task.embed(model, batch)["image"], plain["image"])
    assert torch.equal(task.embed(model.eval(), batch)["image"], plain["image"])


def test_one_of_several_texts_is_drawn_in_training_and_the_first_is_read_in_evaluation():
    task = TriModal(complete=True, dropout=0.0)
    batch = task.batch(pairs(0, 0, 3))
    texts = torch.arange(3 * 4 * SIDE, dtype=torch.float32).view(3, 4, SIDE)
    batch.features["text"] |= {
        "features": texts,
        "mask": torch.tensor([[True] * 4, [True, True, False, False], [True] + [False] * 3]),
    }
    batch.draws[:] = torch.tensor([0.99, 0.6, 0.99])
    assert torch.equal(task.inputs(batch)[0]["text"], texts[:, 0])
    assert torch.equal(task.inputs(batch, drawn=True)[0]["text"], texts[[0, 1, 2], [3, 1, 0]])
