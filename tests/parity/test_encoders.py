"""Frozen encoders read samples as the published implementations read files, and give the same features, masked where there is nothing."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from PIL import Image
from torch import Tensor

from glassworks.config import registry
from glassworks.data.reading.dataset import Sample
from glassworks.encoders.protocol import Encoder, load_encoder, stack
from glassworks.errors import DataError

from .test_audio import sound


def encoder(kind: str, directory: Path, **settings: Any) -> Encoder:
    from glassworks.config.encoder import Encoder as Settings

    return load_encoder(registry.settings_class("encoders", kind, Settings)(weights="some", **settings), directory)


def encode(found: Encoder, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    values, mask = found.encode(stack([found.read(sample) for sample in samples]))
    assert values.shape == (len(samples), found.tokens, found.width) and mask.shape == values.shape[:2]
    assert values.dtype == torch.float32 and mask.dtype == torch.bool and not values.requires_grad
    return values, mask


def sample(**members: bytes) -> Sample:
    return Sample("a", {name: memoryview(content) for name, content in members.items()}, "train-00000.tar: sample 'a'")


def image(seed: int, size: int) -> Sample:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return sample(png=file.getvalue())


def test_clip_gives_the_last_but_one_block_of_transformers(tmp_path, compare):
    config = transformers.CLIPVisionConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPVisionModel(config).eval()
    theirs.save_pretrained(tmp_path)
    samples = [image(seed, 32) for seed in range(2)]
    values, mask = encode(encoder("clip_image", tmp_path), samples)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    pictures = [Image.open(io.BytesIO(bytes(one.members["png"]))) for one in samples]
    pixels = processor(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-2]
    compare(values, expected, "CLIP image tower", "random weights", "encoder `clip_image`, from image files")
    assert mask.all()


def test_timm_gives_the_last_feature_map(published, compare):
    found = encoder("timm_image", published("efficientnet_lite0"), image_size=64)
    samples = [image(seed, 64) for seed in range(2)]
    values, mask = encode(found, samples)
    assert mask.all() and found.tokens == 4
    one, _ = encode(found, samples[1:])
    compare(one[0], values[1], "EfficientNet-Lite0", "wheel", "encoder `timm_image`, alone and in a batch")


def test_whisper_gives_the_features_of_transformers_and_masks_silence_behind_the_sound(published, compare):
    directory = published("whisper_tiny_en")
    speech = sound(3, rows=1)[0].numpy()
    file = io.BytesIO()
    soundfile.write(file, speech, 16_000, "FLOAT", format="WAV")
    short = io.BytesIO()
    soundfile.write(short, speech[:8000], 16_000, "FLOAT", format="WAV")
    values, mask = encode(encoder("whisper", directory), [sample(wav=file.getvalue()), sample(wav=short.getvalue())])
    model = transformers.WhisperModel.from_pretrained(directory).eval()
    extractor = transformers.WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    frames = extractor(speech, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = model.encoder(frames).last_hidden_state
    compare(values[:1], expected, "Whisper tiny.en", "wheel", "encoder `whisper`, from sound files")
    assert mask.sum(1).tolist() == [-(-len(speech) // 320), 25]


def test_sentences_are_unit_vectors_that_do_not_depend_on_padding(published, compare):
    found = encoder("sentence", published("minilm"), max_tokens=32)
    texts = ["A dog runs.", "A dog is running over the wet grass towards its friend."]
    samples = [sample(json=json.dumps({"captions": [text]}).encode()) for text in texts]
    values, mask = encode(found, samples)
    expected = found.network.encode([texts[0]])
    compare(values[0], expected, "all-MiniLM-L6-v2", "wheel", "encoder `sentence`, padded in a batch")
    assert torch.allclose(values.norm(dim=-1), torch.ones(2, 1)) and mask.all()
    assert float(values[0] @ values[1].T) > 0.5


@pytest.mark.parametrize(("kind", "weights"), [("whisper", "whisper_tiny_en"), ("timm_image", "efficientnet_lite0")])
def test_a_sample_without_the_medium_is_named(published, kind, weights):
    with pytest.raises(
        DataError, match=r"^train-00000\.tar: sample 'a': no (audio among its members \['txt'\]|image \(txt\))"
    ):
        encoder(kind, published(weights)).read(sample(txt=b"a text"))


def test_sound_that_does_not_decode_is_named_and_other_rates_are_resampled(published):
    found = encoder("whisper", published("whisper_tiny_en"))
    with pytest.raises(DataError, match="sample 'a': the audio does not decode"):
        found.read(sample(wav=b"RIFF, but no more"))
    file = io.BytesIO()
    soundfile.write(file, np.zeros((44_100, 2), np.float32), 44_100, format="FLAC")
    assert int(found.read(sample(flac=file.getvalue()))["length"]) == 50
