"""Fusion by hand: which tokens stand before a text, what attention computes, and that a text without modalities is the plain language model."""

import math

import pytest
import torch
from torch.nn import functional as F

from glassworks.errors import ConfigError, DataError
from glassworks.models.fused_decoder import PLACE, FusedDecoder, place
from glassworks.models.fusion import (
    Fusion,
    GatedLayer,
    LearnedQueries,
    MaskedCrossAttention,
    Projection,
    Tokens,
    prefix_mask,
    token_mask,
)
from glassworks.models.losses import IGNORED
from glassworks.models.settings.fusion import FusedDecoder as Shape
from glassworks.models.settings.fusion import Fusion as Config
from glassworks.models.settings.fusion import Input
from glassworks.models.text_decoder import TextDecoder

KINDS = ["concatenation", "cross_attention", "gated"]
TEXT = {"width": 8, "depth": 3, "heads": 2, "max_tokens": 24, "position": "rotary", "norm": "rms", "biases": "none"}
RECURSION = {"inner_recursions": 2, "outer_recursions": 2, "supervision_steps": 3}
INPUTS = {"image": Input(tokens=2), "audio": Input(stack=2)}
TOWERS = {
    name: {"encoder": name, "width": width, "input": INPUTS[name].model_dump(), "settings": {}, "weights": ""}
    for name, width in (("image", 3), ("audio", 4))
}


def features(images, sounds):
    """Features of samples with an image or not, and with so many tokens of sound, of five."""
    generator = torch.Generator().manual_seed(0)
    count = len(images)
    lengths = torch.tensor(sounds)
    return {
        "image": {"features": torch.randn(count, 3, generator=generator), "present": torch.tensor(images)},
        "audio": {
            "features": torch.randn(count, 5, 4, generator=generator),
            "mask": torch.arange(5) < lengths[:, None],
            "present": lengths > 0,
        },
    }


def fused(kind, recursion=None, **changes):
    torch.manual_seed(0)
    fusion = {"kind": kind, "heads": 2, "queries": 3, **changes}
    shape = Shape.model_validate({"fusion": fusion, "decoder": {**TEXT, "recursion": recursion}})
    return FusedDecoder(shape, 11, TOWERS).eval()


def masks(given):
    return {name: token_mask(given[name], INPUTS[name]) for name in sorted(given)}


def hidden(model, given, ids):
    rows = place(prefix_mask(model.config.fusion, masks(given)), ids, ids, pad=0)
    return rows, model.hidden(rows, given)


def test_stacked_tokens_are_real_where_one_of_them_is_and_pooled_features_where_the_sample_has_them():
    found = masks(features([True, False], [3, 0]))
    assert found["image"].tolist() == [[True, True], [False, False]]
    assert found["audio"].tolist() == [[True, True, False], [False, False, False]]
    joined = prefix_mask(Config(), found)
    assert joined.tolist() == [[True, True, False, True, True], [False] * 5]
    assert prefix_mask(Config(kind="cross_attention", queries=2), found).tolist() == [[True, True], [False, False]]
    assert prefix_mask(Config(kind="gated"), found).shape == (2, 0)


def test_a_projection_is_the_linear_map_of_the_normalised_features_side_by_side_and_the_embedding_of_the_modality():
    projection = Projection(2, 3, Input(stack=2), 0.0)
    with torch.no_grad():
        projection.map.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 10, 0], [0, 0, 0, 1]]))
        projection.map.bias.copy_(torch.tensor([0.0, 0, 5]))
        projection.modality.copy_(torch.tensor([100.0, 200, 300]))
    given = {
        "features": torch.tensor([[[1.0, 3], [6, 2], [0, 2]]]),
        "mask": torch.tensor([[True, True, True]]),
        "present": torch.tensor([True]),
    }
    # Of two numbers, the layer norm makes -1 and 1 in their order.
    expected = torch.tensor([[[100.0 - 1, 200 + 1 + 10, 300 - 1 + 5], [100 - 1, 200 + 1, 300 + 5]]])
    found = projection(given)
    torch.testing.assert_close(found.values, expected, atol=1e-4, rtol=0)
    assert found.mask.all()
    hidden = projection({**given, "mask": torch.tensor([[True, False, False]])})
    torch.testing.assert_close(hidden.values[0], torch.tensor([[99.0, 201, 305], [0, 0, 0]]), atol=1e-4, rtol=0)


def test_one_vector_becomes_several_tokens():
    projection = Projection(2, 3, Input(tokens=2), 0.0)
    found = projection({"features": torch.randn(4, 2), "present": torch.tensor([True, True, False, True])})
    assert found.values.shape == (4, 2, 3) and found.mask.any(1).tolist() == [True, True, False, True]
    assert not found.values[2].any()


def test_attention_is_the_weighted_mean_of_the_values_of_real_tokens_and_zero_without_any():
    attention = MaskedCrossAttention(1, 1, 1)
    with torch.no_grad():
        for layer, weights in ((attention.query, [1.0]), (attention.key_value, [1.0, 2.0]), (attention.out, [3.0])):
            layer.weight.copy_(torch.tensor(weights)[:, None])
            layer.bias.zero_()
        attention.out.bias.fill_(7.0)
    memory = attention.keys_values(torch.tensor([[[1.0], [0.0], [5.0]]] * 2))
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = attention.masked(torch.tensor([[[2.0]], [[2.0]]]), memory, mask)
    weight = math.exp(2) / (math.exp(2) + 1)  # of the first key, 1; the query is 2
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(3 * 2 * weight + 7))
    assert found[1, 0, 0] == 0


def test_a_gated_layer_adds_gated_attention_and_then_a_gated_feed_forward_part():
    torch.manual_seed(0)
    layer = GatedLayer(Config(kind="gated", heads=2), 8, 16).double()
    tokens = Tokens(torch.randn(2, 5, 8).double(), torch.tensor([[True] * 3 + [False] * 2, [False] * 5]))
    x = torch.randn(2, 4, 8).double()
    memory = layer.memory(tokens)
    assert torch.equal(layer(x, memory), x), "at first"
    with torch.no_grad():
        layer.attention_gate.fill_(0.3)
        layer.forward_gate.fill_(-0.7)
    real = layer.memory_norm(tokens.values[:1, :3])
    key, value = layer.attention.keys_values(real)
    query = layer.attention.query(layer.attention_norm(x[:1])).view(1, 4, 2, 4).transpose(1, 2)
    weights = (query @ key.transpose(2, 3) / 2).softmax(-1)
    attended = layer.attention.out((weights @ value).transpose(1, 2).flatten(2))
    after = x[:1] + math.tanh(0.3) * attended
    expected = after + math.tanh(-0.7) * layer.feed_forward(layer.forward_norm(after))
    found = layer(x, memory)
    torch.testing.assert_close(found[:1], expected)
    assert torch.equal(found[1:], x[1:]), "without tokens"


def test_learned_queries_read_real_tokens_only():
    torch.manual_seed(0)
    queries = LearnedQueries(Config(kind="cross_attention", queries=3, heads=2), 8, 16)
    values = torch.randn(1, 5, 8)
    mask = torch.tensor([[True, True, False, False, False]])
    found = queries(Tokens(values, mask))
    alone = queries(Tokens(values[:, :2], mask[:, :2]))
    torch.testing.assert_close(found.values, alone.values)
    assert found.mask.tolist() == [[True] * 3]
    none = queries(Tokens(values, torch.zeros_like(mask)))
    assert none.values.isfinite().all() and not none.mask.any()


def test_a_text_stands_behind_its_tokens_and_padding_comes_last():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    ids, targets = torch.tensor([[1, 5, 0], [1, 6, 7]]), torch.tensor([[5, 2, IGNORED], [6, 7, 2]])
    rows = place(mask, ids, targets, pad=9)
    assert rows.ids.tolist() == [[PLACE, PLACE, 1, 5, 0], [1, 6, 7, 9, 9]]
    assert rows.targets.tolist() == [[IGNORED, IGNORED, 5, 2, IGNORED], [6, 7, 2, IGNORED, IGNORED]]
    assert rows.documents.tolist() == [[0, 0, 0, 0, -1], [0, 0, 0, -1, -1]]


def test_every_token_reaches_its_place():
    model = fused("concatenation")
    given = features([True, False], [0, 3])
    ids = torch.tensor([[1, 5], [1, 6]])
    rows, _ = hidden(model, given, ids)
    tokens = model.fusion(given)
    x = model.inputs(rows.ids, tokens)["inputs"]
    image, audio = (model.fusion.projections[name](given[name]).values for name in ("image", "audio"))
    torch.testing.assert_close(x[0, :2], image[0])
    torch.testing.assert_close(x[1, :2], audio[1, :2])
    torch.testing.assert_close(x[:, 2:4], model.decoder.embed(ids))
    with pytest.raises(DataError, match="2 places in the rows, but 4 tokens of modalities"):
        model.inputs(rows.ids[:, 1:], tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recursion", [None, RECURSION])
def test_a_sample_without_modalities_is_the_plain_language_model_bit_for_bit(kind, precision, recursion):
    model = fused(kind, recursion).to(precision)
    if kind == "gated":
        with torch.no_grad():
            for layer in model.decoder.gated:
                layer.attention_gate.fill_(1.0)
                layer.forward_gate.fill_(1.0)
    ids = torch.tensor([[1, 5, 7, 2], [1, 6, 3, 2]])
    _, found = hidden(model, features([False, False], [0, 0]), ids)
    plain = TextDecoder(model.config.text, 11).to(precision).eval()
    plain.load_state_dict({n: one for n, one in model.decoder.state_dict().items() if not n.startswith("gated.")})
    assert found.isfinite().all()
    assert torch.equal(found, plain.hidden(ids, documents=torch.zeros_like(ids)))


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_gated_model_at_its_start_has_the_logits_of_the_language_model_bit_for_bit(every, autocast):
    model = fused("gated", every=every)
    if autocast:
        model.decoder.to(torch.bfloat16)
    ids = torch.tensor([[1, 5, 7, 2]] * 2)
    given = features([True, False], [5, 3])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, found = hidden(model, given, ids)
        plain = TextDecoder(model.config.text, 11).eval()
        plain.load_state_dict({n: one for n, one in model.decoder.state_dict().items() if not n.startswith("gated.")})
        plain = plain.to(torch.bfloat16) if autocast else plain
        expected = plain.hidden(ids, documents=torch.zeros_like(ids))
        assert torch.equal(model.decoder.logits(found), plain.logits(expected))
    assert found.dtype == expected.dtype and len(model.decoder.gated) == -(-3 // every)


@pytest.mark.parametrize("kind", KINDS)
def test_each_modality_changes_the_text_and_a_masked_token_does_not(kind):
    model = fused(kind)
    if kind == "gated":
        with torch.no_grad():
            for layer in model.decoder.gated:
                layer.attention_gate.fill_(1.0)
    ids = torch.tensor([[1, 5]])
    given = features([True], [3])

    def last(changed):
        return hidden(model, changed, ids)[1][0, -1]

    def with_(name, index):
        values = given[name]["features"].clone()
        values[index] *= -1
        return {**given, name: {**given[name], "features": values}}

    before = last(given)
    assert not torch.allclose(last(with_("image", (0,))), before)
    assert not torch.allclose(last(with_("audio", (0, 2))), before)
    assert torch.equal(last(with_("audio", (0, 4))), before)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_samples_lack_modalities(kind):
    model = fused(kind)
    given, ids = features([True, False, False], [0, 3, 0]), torch.tensor([[1, 5, 2]] * 3)
    rows = place(prefix_mask(model.config.fusion, masks(given)), ids[:, :-1], ids[:, 1:], 0)
    model(rows, given).total.backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())
    if kind == "gated":
        assert all(layer.attention_gate.grad.abs() > 0 for layer in model.decoder.gated)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recursive_decoder_learns_after_every_supervision_step_and_writes_after_the_last(kind):
    model = fused(kind, RECURSION)
    given, ids = features([True, False], [3, 5]), torch.tensor([[1, 5, 7, 2]] * 2)
    rows = place(prefix_mask(model.config.fusion, masks(given)), ids[:, :-1], ids[:, 1:], 0)
    steps = model.hidden(rows, given, every_step=True)
    assert len(steps) == 3 and torch.equal(steps[-1], model.hidden(rows, given))
    losses = [F.cross_entropy(model.decoder.logits(step).flatten(0, 1), rows.targets.flatten(), reduction="sum") for step in steps]  # fmt: skip
    assert model(rows, given).total.item() == pytest.approx(losses[-1].item(), rel=1e-5)
    assert model.train()(rows, given).total.item() == pytest.approx(sum(losses).item() / 3, rel=1e-5)
    assert losses[0].item() != pytest.approx(losses[-1].item(), rel=1e-3)


def test_the_ctc_loss_sums_over_all_alignments_and_leaves_out_samples_without_room():
    """Of two tokens, the text `a` has the alignments `a a`, `a -` and `- a`; `a a` needs a blank between, hence three tokens."""
    model, given = fused("concatenation"), features([True] * 4, [4, 4, 1, 0])
    tokens = model.fusion.projections["audio"](given["audio"]).values
    p = model.decoder.logits(model.decoder.norm(tokens))[0].softmax(-1)
    expected = -(p[0, 5] * p[1, 5] + p[0, 5] * p[1, 0] + p[0, 0] * p[1, 5]).log()
    loss = model.read_off("audio", given["audio"], [[5], [5, 5], [5, 6], [5]], 0)
    torch.testing.assert_close(loss, expected)
    weighted = model.read_off("audio", given["audio"], [[5], [5], [], [5]], 0, torch.tensor([0.5, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(weighted, expected / 2)
    assert model.read_off("audio", given["audio"], [[], [], [], [5]], 0).item() == 0
    loss.backward()
    assert model.fusion.projections["audio"].map.weight.grad.isfinite().all()


def test_heads_divide_the_width():
    with pytest.raises(ConfigError, match=r"^model\.fusion\.heads: 3 does not divide the width 8 of the decoder$"):
        Fusion(Config(kind="gated", heads=3), {}, 8, 16)
    with pytest.raises(ValueError, match=r"fusion\.heads: 3 does not divide the width 8"):
        Shape.model_validate({"fusion": {"kind": "gated", "heads": 3}, "decoder": TEXT})


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_loaded_again(tmp_path, kind):
    model = fused(kind)
    model.save(tmp_path)
    again = FusedDecoder.load(tmp_path).eval()
    given, ids = features([True, True], [5, 1]), torch.tensor([[1, 5]] * 2)
    torch.testing.assert_close(hidden(again, given, ids)[1], hidden(model, given, ids)[1])
    assert again.towers == TOWERS
