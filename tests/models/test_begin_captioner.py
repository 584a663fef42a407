"""A captioner that begins with trained parts is, before its first step, the language model and the backbone that it begins with."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import captioner as captioners
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.begin_captioner import begin_captioner
from glassworks.models.pretrained.language_models import read_decoder
from glassworks.models.settings.backbone import Backbone
from glassworks.models.settings.captioner import Captioner
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.training.parameters import ParameterGroups

TEXT = TextDecoder(
    width=32,
    depth=2,
    heads=4,
    kv_heads=2,
    max_tokens=20,
    position="rotary",
    norm="rms",
    feed_forward="swiglu",
    biases="none",
)
RESNET = Backbone(name="resnet10t", image_size=32, layers=(2, 3))
VIT = Backbone(name="vit_tiny_patch16_224", image_size=32, layers=(10, 11))


@pytest.fixture
def language_model(tmp_path) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(TEXT, 50).eval()
    model.save(tmp_path / "lm")
    return model


def begin(tmp_path, **settings) -> captioners.Captioner:
    decoder, vocabulary = read_decoder(tmp_path / "lm")
    config = Captioner(**{"backbone": RESNET, "decoder": decoder, **settings})
    torch.manual_seed(1)
    return begin_captioner(config, vocabulary, tmp_path / "lm").eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("settings", [{}, {"backbone": VIT}, {"backbone": VIT, "lock_step": True}])
def test_defect_004_4_new_cross_attention_leaves_the_language_model_as_it_was(
    language_model, tmp_path, images, ids, settings
):
    """The document's new output projections are drawn at random: they disturb the language model from the first step."""
    model = begin(tmp_path, **settings)
    torch.testing.assert_close(model(images, ids), language_model(ids), rtol=0, atol=0)
    for block in model.decoder.blocks:
        block.gate.data.fill_(0.5)
    assert not torch.allclose(model(images, ids), language_model(ids), atol=1e-3)


def test_closed_gates_learn_to_open(language_model, tmp_path, images, ids):
    model = begin(tmp_path)
    model(images, ids).logsumexp(-1).sum().backward()
    assert all(block.gate.grad.abs().item() > 0 for block in model.decoder.blocks)


def test_defect_004_5_layers_of_a_backbone_are_normalised(language_model, tmp_path, images):
    """The document reads the blocks of a ViT without the norm that follows them."""
    for tokens in begin(tmp_path, backbone=VIT, lock_step=True).features(images):
        assert tokens.mean(-1).abs().max() < 0.2 and (tokens.std(-1) - 1).abs().max() < 0.2


def test_with_lock_step_every_block_sees_a_layer_of_its_own(language_model, tmp_path, images, ids):
    model = begin(tmp_path, backbone=VIT, lock_step=True)
    for block in model.decoder.blocks:
        block.gate.data.fill_(0.5)
    before = model(images, ids)
    memory = model.encode_memory(images)
    assert not torch.allclose(model.decoder(ids, memory[::-1]), before, atol=1e-4)
    with pytest.raises(ConfigError, match="one layer for each of the 2 decoder blocks, not 1"):
        begin(tmp_path, backbone=VIT.model_copy(update={"layers": (11,)}), lock_step=True)


def test_parts_are_unfrozen_one_after_the_other(language_model, tmp_path):
    """Heads first, then the decoder, then everything; what is frozen has no gradient and stays in eval mode."""
    from glassworks.config.optimization import Optimization, ParameterGroup

    model = begin(tmp_path)
    groups = {
        "heads": ParameterGroup(parameters=["*cross_*", "*.gate", "memory_*"]),
        "decoder": ParameterGroup(parameters=["decoder.*"], train_from=2),
        "vision": ParameterGroup(parameters=["encoder.*"], train_from=4),
    }
    staged = ParameterGroups(model, Optimization(groups=groups), 6)
    trained = []
    for step in (0, 2, 4):
        staged.prepare(step)
        trained.append({name for name, parameter in model.named_parameters() if parameter.requires_grad})
    assert all(name.startswith("memory_") or "cross_" in name or name.endswith("gate") for name in trained[0])
    assert trained[1] - trained[0] == {n for n, _ in model.named_parameters() if n.startswith("decoder.")} - trained[0]
    assert trained[2] == {name for name, _ in model.named_parameters()}
    staged.prepare(2)
    assert not model.encoder.training and model.decoder.training


def test_a_captioner_of_parts_loads_to_the_same_bits(language_model, tmp_path, images, ids):
    model = begin(tmp_path)
    model.save(tmp_path / "saved")
    assert torch.equal(captioners.Captioner.load(tmp_path / "saved").eval()(images, ids), model(images, ids))


def test_a_language_model_that_does_not_fit_is_said_so(language_model, tmp_path):
    file = tmp_path / "lm/model.safetensors"
    tensors = load_file(file)
    tensors["decoder.blocks.1.attention.out.weight"] = torch.zeros(3, 3)
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match=r"decoder\.blocks\.1\.attention\.out\.weight is \[3, 3\], not \[32, 32\]"):
        begin(tmp_path)


def test_what_is_loaded_lies_by_columns_and_what_is_trained_by_rows(language_model, tmp_path):
    loaded = LanguageModel.load(tmp_path / "lm")
    matrices = {name for name, part in loaded.named_modules() if isinstance(part, torch.nn.Linear)}
    assert len(matrices) == 4 * TEXT.depth
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(language_model.state_dict()[name])
        assert tensor.T.is_contiguous() if name.removesuffix(".weight") in matrices else tensor.is_contiguous()
    assert all(parameter.is_contiguous() for parameter in begin(tmp_path).parameters())


def test_what_no_cache_holds_is_loaded_by_rows(language_model, tmp_path, monkeypatch):
    monkeypatch.setattr("glassworks.models.memory.CACHE", 10_000)
    assert all(parameter.is_contiguous() for parameter in LanguageModel.load(tmp_path / "lm").parameters())
