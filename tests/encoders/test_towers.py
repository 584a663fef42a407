"""Frozen encoders as towers: missing modalities, several texts, other layers, shorter windows."""

import io
import json

import numpy as np
import pytest
import soundfile
import torch
import transformers
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from glassworks.data.reading.dataset import Sample
from glassworks.encoders.protocol import load_encoder, stack
from glassworks.encoders.sentence.settings import Sentence
from glassworks.encoders.timm_image.settings import TimmImage
from glassworks.encoders.tower import Tower
from glassworks.encoders.whisper.settings import Whisper
from glassworks.errors import ConfigError
from glassworks.models.backbone import Backbone
from glassworks.models.settings.backbone import Backbone as Config

from ..tiny_towers import image_tower, speech_tower, text_tower


def sample(texts=None, color=None, sound=None):
    members, file = {}, io.BytesIO()
    if texts:
        members["json"] = json.dumps({"captions": texts}).encode()
    if color is not None:
        Image.new("RGB", (32, 32), color).save(file, "PNG")
        members["png"] = file.getvalue()
    if sound is not None:
        soundfile.write(file, sound, 16_000, format="FLAC")
        members["flac"] = file.getvalue()
    return Sample("a", {name: memoryview(content) for name, content in members.items()}, "train-0.tar: sample 'a'")


def tower(settings, directory):
    return Tower(load_encoder(settings, directory), settings, "some")


@pytest.mark.parametrize(
    "name, norms_left", [("tf_efficientnet_lite0", 0), ("resnet18", 0), ("resnetv2_18", 8), ("vit_tiny_patch16_224", 0)]
)
def test_a_frozen_network_has_its_batch_norms_in_its_convolutions(name, norms_left):
    torch.manual_seed(0)
    network = Backbone(Config(name=name, image_size=32, layers=(-1,)))
    for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
        for tensor in (norm.running_mean, norm.weight, norm.bias):
            nn.init.uniform_(tensor, 0.5, 1.5)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        wanted = network(images)[0]
        found = network.freeze()(images)[0]
    assert sum(isinstance(module, _BatchNorm) for module in network.modules()) == norms_left
    assert not any(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_norm_whose_input_is_read_elsewhere_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            nn.init.uniform_(self.norm.running_var, 2, 3)

        def forward_intermediates(self, images, **_):
            maps = self.convolution(images)
            return [maps + self.norm(maps)]

    network = Backbone(Config(name="resnet18", image_size=32, layers=(0,)))
    network.network = Shared().eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = network(images)[0]
        assert torch.allclose(network.freeze()(images)[0], wanted)
    assert isinstance(network.network.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_a_sample_without_the_modality_has_zeros_and_leaves_the_others_as_they_are(tmp_path, pooling):
    settings = TimmImage(weights="some", image_size=32, batch_size=2, pooling=pooling)
    found = tower(settings, image_tower(tmp_path / "cnn"))
    samples = [sample(["red"]), sample(color="red"), sample(color="blue"), sample(["blue"])]
    features = found.features_of([found.read(one) for one in samples])
    assert features["present"].tolist() == [False, True, True, False]
    alone = found.features_of([found.read(one) for one in samples[1:3]])
    assert torch.equal(features["features"][1:3], alone["features"]) and not features["features"][[0, 3]].any()
    nothing = found.features_of([None, None])
    assert nothing["features"].shape == (2, *alone["features"].shape[1:]) and not nothing["features"].any()
    if pooling == "none":
        assert not features["mask"][0].any() and features["mask"][1].all()


def test_a_blank_image_is_that_of_a_grey_file(tmp_path):
    settings = TimmImage(weights="some", image_size=48, batch_size=2, pooling="none", dtype="float16")
    found = tower(settings, image_tower(tmp_path / "cnn"))
    grey = found.features_of([found.read(sample(color=(128, 128, 128)))])
    assert torch.equal(found.blank(), grey["features"][0])


def test_several_texts_have_a_vector_each_and_missing_ones_are_masked(tmp_path):
    directory = text_tower(tmp_path / "bert")
    several = tower(Sentence(weights="some", max_tokens=8, texts=3, pooling="none", batch_size=2), directory)
    first = tower(Sentence(weights="some", max_tokens=8, batch_size=2), directory)
    samples = [sample(["a red square", "the square is red", "red", "grey"]), sample(["blue"])]
    features = several.features_of([several.read(one) for one in samples])
    assert features["mask"].tolist() == [[True, True, True], [True, False, False]]
    expected = first.features_of([first.read(sample([text])) for text in ("the square is red", "blue")])["features"]
    torch.testing.assert_close(torch.stack([features["features"][0, 1], features["features"][1, 0]]), expected)
    assert not features["features"][1, 1:].any() and features["features"].isfinite().all()


def test_a_layer_of_a_sentence_encoder_is_that_of_transformers(tmp_path):
    directory = text_tower(tmp_path / "bert")
    found = load_encoder(Sentence(weights="some", max_tokens=8, layer=0), directory)
    values, _ = found.encode(stack([found.read(sample(["a red square"]))]))
    network = transformers.BertModel.from_pretrained(directory).eval()
    ids = found.network.tokenizer("a red square", return_tensors="pt")
    states = network(**ids, output_hidden_states=True).hidden_states[1].mean(1)
    torch.testing.assert_close(values[0], torch.nn.functional.normalize(states, dim=-1).detach())
    with pytest.raises(ConfigError, match=r"^layer: 2 is not a block of this encoder; it has 2: 0 … 1 or -2 … -1$"):
        load_encoder(Sentence(weights="some", layer=2), directory)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return speech_tower(tmp_path_factory.mktemp("whisper"))


SOUND = np.sin(np.arange(16_000) / 20) * np.linspace(0.1, 0.5, 16_000)


@pytest.mark.parametrize("layer", [-1, 0])
def test_a_short_window_is_the_encoder_with_its_first_positions(whisper, layer):
    found = load_encoder(Whisper(weights="some", seconds=2, layer=layer), whisper)
    values, mask = found.encode(stack([found.read(sample(sound=SOUND))]))
    assert values.shape == (1, 100, 32) and mask.sum() == 50
    theirs = transformers.WhisperModel.from_pretrained(whisper).encoder.eval()
    theirs.config.max_source_positions = 100
    theirs.max_source_positions = 100
    theirs.embed_positions = torch.nn.Embedding.from_pretrained(theirs.embed_positions.weight[:100].detach())
    frames = found.read(sample(sound=SOUND))["frames"][None]
    with torch.no_grad():
        states = theirs(frames, output_hidden_states=True).hidden_states
    torch.testing.assert_close(values, states[-1] if layer == -1 else states[layer + 1], atol=1e-5, rtol=1e-5)


def test_what_follows_the_end_of_a_sound_is_left_out_of_the_mean(whisper):
    settings = Whisper(weights="some", seconds=2, batch_size=1)
    found = tower(settings, whisper)
    reading = found.read(sample(sound=SOUND))
    values, mask = found.encoder.encode(stack([reading]))
    torch.testing.assert_close(found.features_of([reading])["features"][0], values[0][mask[0]].mean(0))
    silent = found.features_of([found.read(sample(sound=np.zeros(16_000)))])["features"]
    assert silent.isfinite().all()


def test_a_stride_stores_the_means_of_neighbouring_tokens_before_the_end_of_the_sound(whisper):
    fine, coarse = (
        load_encoder(Whisper(weights="some", seconds=2, stride=stride, pooling="none"), whisper) for stride in (1, 3)
    )
    batch = stack([fine.read(sample(sound=SOUND)), fine.read(sample(sound=SOUND[:900]))])
    values, mask = fine.encode(batch)
    means, real = coarse.encode(batch)
    assert (coarse.tokens, means.shape, real.sum(1).tolist()) == (34, (2, 34, 32), [17, 1])
    torch.testing.assert_close(means[0, 1], values[0, 3:6].mean(0))
    torch.testing.assert_close(means[0, 16], values[0, 48:50].mean(0), msg="of 50 tokens, two are left")
    assert mask[1].sum() == 3 and not means[1, 1:].any()
    assert "stride" not in Whisper(weights="some").model_dump()
