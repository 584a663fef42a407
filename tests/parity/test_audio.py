"""Whisper's log-mel front end and encoder: ours and transformers' on the same sounds, with the same weights."""

import pytest
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder as TheirEncoder

from glassworks.models.log_mel import LogMel
from glassworks.models.pretrained.whisper import export_whisper_encoder, load_whisper_encoder
from glassworks.models.settings.whisper_encoder import WhisperEncoder as Config
from glassworks.models.whisper_encoder import WhisperEncoder, sinusoids

from .conftest import randomise

BASE = {
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
}


def sound(seconds, rows=2):
    """A rising tone in noise [rows, T], 16 kHz."""
    time = torch.arange(int(seconds * 16_000)) / 16_000
    noise = torch.randn(rows, len(time), generator=torch.Generator().manual_seed(0))
    return 0.4 * torch.sin(2 * torch.pi * (200 + 40 * time) * time) + 0.05 * noise


def test_log_mel_equals_that_of_transformers(compare):
    lengths, extract = (0.3, 10, 30, 33), transformers.WhisperFeatureExtractor()
    heard = [sound(seconds) for seconds in lengths]
    theirs = [extract(list(one.numpy()), sampling_rate=16_000, return_tensors="pt").input_features for one in heard]
    ours = [LogMel()(one) for one in heard]
    assert {one.shape for one in ours} == {(2, 80, 3000)}
    compare(
        torch.stack(ours), torch.stack(theirs), "Whisper log-mel", "none", "frames of 0.3, 10, 30 and 33 s of sound"
    )


def test_short_sounds_are_filled_with_silence_to_thirty_seconds():
    """Edge Glass gives Whisper 10 s; it hears 30."""
    frames = LogMel()(sound(10))
    assert frames.shape[2] == 3000
    assert (frames[:, :, 1010:] == frames[:, :, 1010:1011]).all()


@torch.no_grad()
def test_the_encoder_equals_that_of_transformers(tmp_path, compare):
    ends = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "decoder_start")}
    small = {"decoder_layers": 1, "decoder_attention_heads": 8, "decoder_ffn_dim": 64, "vocab_size": 100}
    model = transformers.WhisperModel(transformers.WhisperConfig(**BASE, **ends, **small)).eval()
    randomise(model.encoder)
    model.save_pretrained(tmp_path / "theirs")
    ours, frames = load_whisper_encoder(tmp_path / "theirs").eval(), LogMel()(sound(20, rows=1))
    compare(
        ours(frames),
        model.encoder(frames).last_hidden_state,
        "Whisper base",
        "random, seed 0",
        "features of the encoder, 6 layers",
    )
    published = sum(parameter.numel() for parameter in model.encoder.parameters())
    idle = 6 * 512  # the biases of the keys, which are 0
    assert sum(tensor.numel() for tensor in ours.state_dict().values()) == published + idle
    export_whisper_encoder(ours, tmp_path / "again")
    again = TheirEncoder.from_pretrained(tmp_path / "again").state_dict()
    for key, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, again[key]), key


@torch.no_grad()
def test_a_bias_of_the_keys_changes_nothing():
    torch.manual_seed(0)
    encoder = WhisperEncoder(Config(frames=40, width=32, heads=2, depth=2)).eval()
    frames = torch.randn(1, 80, 40)
    before = encoder(frames)
    for block in encoder.blocks:
        block.attention.qkv.bias[32:64] += torch.randn(32)
    torch.testing.assert_close(encoder(frames), before, rtol=1e-4, atol=1e-5)


def test_new_positions_are_the_sinusoids_of_whisper():
    published = transformers.models.whisper.modeling_whisper.sinusoids(1500, 384)
    torch.testing.assert_close(sinusoids(1500, 384), published, rtol=1e-4, atol=1e-4)


def test_another_number_of_frames_is_refused():
    with pytest.raises(ValueError, match=r"expected \[B, 80, 3000\] frames, not \[1, 80, 1000\]"):
        WhisperEncoder(Config(depth=1))(torch.zeros(1, 80, 1000))
