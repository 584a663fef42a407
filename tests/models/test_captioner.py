"""The captioner's parts do what their names say."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from glassworks.errors import ArtifactError
from glassworks.models.captioner import Captioner
from glassworks.models.settings.captioner import Captioner as Config
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_transformer import VisionTransformer

CONFIG = Config(
    encoder=VisionTransformer(image_size=16, patch_size=4, width=32, depth=2, heads=2),
    decoder=TextDecoder(width=32, depth=2, heads=2, max_tokens=12),
)


@pytest.fixture
def model() -> Captioner:
    torch.manual_seed(0)
    return Captioner(CONFIG, 50).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes(model, images):
    assert model.encoder(images).shape == (3, 16, 32)
    assert model(images, torch.zeros(3, 7, dtype=torch.long)).shape == (3, 7, 50)


def test_no_token_sees_a_later_one(model, images):
    ids = torch.randint(0, 50, (3, 8), generator=torch.Generator().manual_seed(2))
    changed = ids.clone()
    changed[:, 5:] = 0
    before, after = model(images, ids), model(images, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_every_patch_reaches_every_token(model, images):
    ids = torch.zeros(3, 4, dtype=torch.long)
    before = model(images, ids)
    for row, column in ((0, 0), (15, 15), (7, 8)):
        changed = images.clone()
        changed[:, :, row, column] += 1
        assert (model(changed, ids) - before).abs().amax(dim=2).min() > 0


def test_a_closed_gate_makes_a_language_model_that_sees_no_image(model, images):
    for block in model.decoder.blocks:
        block.gate.data.zero_()
    ids = torch.zeros(3, 4, dtype=torch.long)
    torch.testing.assert_close(model(images, ids), model(images.flip(0), ids))


def test_decoding_with_the_cache_equals_the_full_forward(model, images):
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(3))
    memory, cache = model.encode_memory(images), model.decoder.new_cache(3)
    pieces = [model.decoder(part, memory, cache) for part in ids.split([4, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(images, ids), rtol=1e-4, atol=1e-5)


def test_a_saved_model_loads_to_the_same_bits(model, images, tmp_path):
    model.save(tmp_path)
    ids = torch.zeros(3, 4, dtype=torch.long)
    assert torch.equal(Captioner.load(tmp_path).eval()(images, ids), model(images, ids))


def test_tensors_that_do_not_fit_are_listed(model, tmp_path):
    model.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.norm.bias"]
    tensors["surplus"] = torch.zeros(1)
    tensors["decoder.norm.weight"] = torch.zeros(5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        ArtifactError, match=r"missing encoder\.norm\.bias; extra surplus; decoder\.norm\.weight is \[5\], not \[32\]"
    ):
        Captioner.load(tmp_path)


def test_a_model_of_another_kind_or_version_is_said_so(model, tmp_path):
    from glassworks.models.language_model import LanguageModel

    model.save(tmp_path)
    with pytest.raises(ArtifactError, match=r"not a saved language model \(it is a captioner\)"):
        LanguageModel.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["lock_step"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"the key 'lock_step' is missing; train the model again"):
        Captioner.load(tmp_path)
