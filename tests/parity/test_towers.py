"""The features of a sample by published encoders have the same bits alone, among any others, and at any position of a batch."""

import json

import pytest
import torch

from glassworks.config.encoder import Encoder as Settings
from glassworks.encoders.protocol import stack
from glassworks.encoders.sentence.settings import Sentence
from glassworks.encoders.timm_image.settings import TimmImage
from glassworks.encoders.tower import Tower, load_tower
from glassworks.errors import ConfigError
from glassworks.training.determinism import make_deterministic

from .test_encoders import image, sample

WORDS = [
    "the",
    "red",
    "blue",
    "dog",
    "cat",
    "runs",
    "sleeps",
    "under",
    "over",
    "a",
    "table",
    "near",
    "house",
    "of",
    "flags",
    "with",
    "medium",
    "skin",
    "tone",
]


def pictures():
    return [image(seed, 128 if seed % 3 else 90) for seed in range(64)]


def texts():
    return [
        sample(json=json.dumps({"captions": [" ".join(WORDS[seed % 7 : seed % 7 + 1 + seed % 11])]}).encode())
        for seed in range(64)
    ]


@pytest.mark.parametrize("pooling", ["mean", "none"])
@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        (TimmImage(weights="efficientnet_lite0", image_size=128, batch_size=16), pictures),
        (Sentence(weights="minilm", max_tokens=18, batch_size=16), texts),
    ],
)
def test_features_depend_on_the_sample_alone(published, settings, samples, pooling):
    make_deterministic()
    settings = settings.model_copy(update={"pooling": pooling})
    tower = load_tower("a", settings, published(settings.weights))
    readings = [tower.read(one) for one in samples()]
    together = tower.features(stack(readings))
    for number in (0, 17, 63):
        alone = tower.features(stack([readings[number]]))
        assert all(torch.equal(alone[name][0], together[name][number]) for name in together)
    generator = torch.Generator().manual_seed(0)
    for count in (64, 37, 5):
        order = torch.randperm(64, generator=generator)[:count]
        mixed = tower.features(stack([readings[number] for number in order]))
        assert all(torch.equal(mixed[name], together[name][order]) for name in together)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tower.features(stack(readings[:3]))["features"], together["features"][:3])
    different = (together["features"][0] - together["features"][1]).abs().max()
    assert different > 0.01 and together["features"].dtype == torch.float32


class Centred:
    """An encoder that subtracts the mean of the batch."""

    modality, tokens, width = "image", 1, 4

    def encode(self, batch):
        values = batch["x"] - batch["x"].mean(0)
        return values[:, None], torch.ones(len(values), 1, dtype=torch.bool)

    def to(self, device):
        return self


class Uneven(Centred):
    """An encoder that treats the first half of a batch in another way."""

    def encode(self, batch):
        values = batch["x"].clone()
        values[: len(values) // 2] += 1e-6
        return values[:, None], torch.ones(len(values), 1, dtype=torch.bool)


@pytest.mark.parametrize("encoder", [Centred, Uneven])
def test_an_encoder_whose_features_depend_on_the_batch_is_refused(encoder):
    settings = Settings(encoder="centred", weights="none", batch_size=4)
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    line = r"^encoders\.eye\.batch_size: on this device the features of a sample depend on the rest of its batch of 4; set it to 1$"
    with pytest.raises(ConfigError, match=line):
        Tower(encoder(), settings, "eye").features({"x": x})
    alone = Tower(Centred(), settings.model_copy(update={"batch_size": 1}), "eye").features({"x": x})
    assert torch.equal(alone["features"], torch.zeros(4, 4))


def test_masked_tokens_do_not_count_in_the_mean():
    class Masked(Centred):
        def encode(self, batch):
            return batch["x"].reshape(-1, 2, 2), batch["real"]

    settings = Settings(encoder="masked", weights="none", batch_size=3, dtype="float16")
    tower = Tower(Masked(), settings, "ear")
    x, real = torch.tensor([[1.0, 2.0, 5.0, 6.0]] * 3), torch.tensor([[True, True], [True, False], [False, False]])
    features = tower.features({"x": x, "real": real})["features"]
    assert features.tolist() == [[3.0, 4.0], [1.0, 2.0], [0.0, 0.0]] and features.dtype == torch.float16
