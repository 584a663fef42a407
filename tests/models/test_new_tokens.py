"""New tokens of a frozen base have rows of their own, which are trained; merge and export keep the tie of embedding and output layer."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from glassworks.errors import ArtifactError
from glassworks.inference.export import run
from glassworks.inference.language_models import open_language_model
from glassworks.models import adapters, new_tokens
from glassworks.models.adapters import CONFIG, WEIGHTS
from glassworks.models.pretrained.language_models import load_base, load_language_model
from glassworks.models.settings.adapter import Adapter

from ..inference.instructed import UNUSED, VOCABULARY, write_base

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""peft calls what transformers deprecates."""
TIED, UNTIED = {}, {"biases": "qkv", "tied": False}
ROWS = VOCABULARY + UNUSED
PLACES = {"unused rows": (VOCABULARY, 2), "after the last row": (ROWS, 3), "both": (ROWS - 1, 3)}

CASES = [
    pytest.param(TIED, PLACES["unused rows"], id="tied, unused rows"),
    pytest.param(TIED, PLACES["after the last row"], id="tied, after the last row", marks=pytest.mark.slow),
    pytest.param(TIED, PLACES["both"], id="tied, both"),
    pytest.param(UNTIED, PLACES["both"], id="untied, both"),
]


def ids(first: int, count: int) -> torch.Tensor:
    """Two texts in which every new token occurs."""
    found = torch.randint(3, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(3))
    found[:, 5 : 5 + count] = torch.arange(first, first + count)
    return found


def trained(folder, place):
    """The model of a base with an adapter and new tokens, after a few steps."""
    model = load_language_model(folder)
    adapters.attach(model, Adapter(rank=4, alpha=8), seed=1)
    new_tokens.attach(model, *place)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    given = ids(*place)
    for _ in range(5):
        optimizer.zero_grad()
        model(given[:, :-1], targets=given[:, 1:]).total.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("settings", "place"), CASES)
def test_rows_are_trained_as_those_of_a_resized_model_and_no_other_row_changes(tmp_path, settings, place):
    """Loss and gradient are those of one weight that holds all rows; the optimizer has no state for the rows of the base."""
    folder, (first, count) = write_base(tmp_path / "base", **settings), place
    before, model, given = load_language_model(folder), load_language_model(folder), ids(*place)
    model.requires_grad_(False)
    names = new_tokens.attach(model, *place)
    assert names == [f"decoder.{name}.rows.weight" for name in ("tokens", *(["head"] if settings else []))]
    assert [name for name, one in model.named_parameters() if one.requires_grad] == names
    whole = load_language_model(folder)
    for name in new_tokens.layers(whole):
        weight = getattr(model.get_submodule(name), "weight").detach().clone()  # noqa: B009
        assert torch.equal(weight[first], before.get_submodule(name).weight[:first].double().mean(0).float())
        whole.set_submodule(name, torch.nn.Embedding.from_pretrained(weight, freeze=False) if "tokens" in name else _linear(weight))  # fmt: skip
    losses = [one(given[:, :-1], targets=given[:, 1:]).total for one in (model, whole)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1])
    for name in new_tokens.layers(model):
        rows, all_rows = model.get_submodule(name).rows.weight, whole.get_submodule(name).weight
        torch.testing.assert_close(rows.grad, all_rows.grad[first : first + count], rtol=1e-5, atol=1e-6)
        assert rows.grad.abs().max() > 1e-3
    torch.testing.assert_close(model(given), whole(given))
    model = trained(folder, place)
    for name in new_tokens.layers(model):
        base = model.get_submodule(name).base_layer.weight
        assert torch.equal(base, before.get_submodule(name).weight)


def _linear(weight):
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(weight)
    return layer


@torch.no_grad()
def logits(model, given):
    found = model.eval()(given)
    return getattr(found, "logits", found)


def assert_equal(found, expected):
    """Equal to 1e-5 of the largest logit."""
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(("settings", "place"), CASES)
def test_pain_6_new_tokens_survive_saving_merge_and_export_and_the_head_stays_tied(tmp_path, settings, place):
    folder, (first, count) = write_base(tmp_path / "data/weights/base", **settings), place
    model, given = trained(folder, place), ids(*place)
    expected, size = logits(model, given), max(ROWS, first + count)
    assert expected.shape[-1] == size
    tuned = tmp_path / "models/tuned"
    model.save_adapter(tuned, folder)
    open_language_model(folder, tmp_path).tokenizer.save(tuned)
    unmerged, merged = (load_language_model(tuned, folder, merged=one) for one in (False, True))
    assert torch.equal(logits(unmerged, given), expected)
    assert_equal(logits(merged, given), expected)
    assert not new_tokens.modules(merged) and merged.vocabulary == size

    run(tuned, tmp_path / "out", tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_equal(logits(theirs, given), expected)
    config, saved = (
        json.loads((tmp_path / "out/config.json").read_text()),
        load_file(tmp_path / "out/model.safetensors"),
    )
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (size, not settings)
    assert ("lm_head.weight" in saved) == bool(settings)
    kept = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    end = min(first, ROWS)
    assert torch.equal(saved["model.embed_tokens.weight"][:end], kept[:end])
    control = load_base(tuned, folder)
    assert control.vocabulary == size and not torch.equal(logits(control, given), expected)

    run(tuned, tmp_path / "peft", tmp_path, "adapter")
    told = f"call `resize_token_embeddings({size}, mean_resizing=False)` on it"
    assert (told in (tmp_path / "peft/README.md").read_text()) == (size > ROWS)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    plain.resize_token_embeddings(size, mean_resizing=False)
    adapted = PeftModel.from_pretrained(plain, tmp_path / "peft")
    assert_equal(logits(adapted, given), expected)
    back = open_language_model(tmp_path / "peft", tmp_path, folder)
    assert_equal(logits(back.model, given), expected)


def test_trainable_tokens_of_peft_are_read(tmp_path):
    folder = write_base(tmp_path / "base")
    listed = [VOCABULARY, VOCABULARY + 1]
    settings = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": listed})
    theirs = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(folder), settings)
    for name, parameter in theirs.named_parameters():
        if "trainable_tokens_delta" in name:
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    theirs.save_pretrained(tmp_path / "peft")
    given = ids(VOCABULARY, 2)
    for merged in (False, True):
        ours = open_language_model(tmp_path / "peft", tmp_path, folder, merged).model
        assert_equal(logits(ours, given), logits(theirs, given))


@pytest.mark.parametrize(
    ("listed", "message"),
    [({"tokens": [300, 302]}, "trainable_token_indices is not one range of ids"), ({"tokens": [900]}, "begin with the id 900, but")],
)  # fmt: skip
def test_ids_that_our_rows_cannot_have_are_one_line(tmp_path, listed, message):
    folder = write_base(tmp_path / "base")
    model = trained(folder, (VOCABULARY, 1))
    model.save_adapter(tmp_path / "tuned", folder)
    config = json.loads((tmp_path / "tuned" / CONFIG).read_text())
    assert config["trainable_token_indices"] == {"tokens": [VOCABULARY]}
    assert "base_model.model.decoder.tokens.token_adapter.trainable_tokens_delta" in load_file(
        tmp_path / "tuned" / WEIGHTS
    )
    (tmp_path / "tuned" / CONFIG).write_text(json.dumps({**config, "trainable_token_indices": listed}))
    with pytest.raises(ArtifactError, match=message) as refused:
        adapters.load_adapter(load_language_model(folder), tmp_path / "tuned")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("held", [{"dtype": "bf16"}, {"dtype": "bf16", "quantisation": "nf4"}])
def test_new_tokens_of_a_base_that_training_held_in_less_are_merged_as_they_were_trained(tmp_path, held):
    folder, place = write_base(tmp_path / "base"), PLACES["both"]
    trained(folder, place).save_adapter(tmp_path / "tuned", folder, **held)
    unmerged, merged = (load_language_model(tmp_path / "tuned", folder, merged=one) for one in (False, True))
    assert_equal(logits(merged, ids(*place)), logits(unmerged, ids(*place)))
    weight = merged.decoder.tokens.weight
    assert torch.equal(weight[: place[0]], weight[: place[0]].bfloat16().float())
    assert not torch.equal(weight[place[0] :], weight[place[0] :].bfloat16().float()), "as LoRA, the rows are float32"
