"""Whisper in transformers' layout, as our encoder and back. The decoder of a file is ignored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glassworks.artifacts.model_files import CONFIG, read_hub_config
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import saving
from glassworks.models.log_mel import HOP, RATE, WINDOW
from glassworks.models.pretrained.hub_keys import HubKeys
from glassworks.models.pretrained.mapping import Piece, fused, layer, load, published, read_tensors
from glassworks.models.settings.whisper_encoder import WhisperEncoder as Config
from glassworks.models.whisper_encoder import WhisperEncoder

PREPROCESSOR = "preprocessor_config.json"
DECODER = frozenset(
    [f"decoder_{name}" for name in ("attention_heads", "ffn_dim", "layerdrop", "layers")]
    + ["activation_dropout", "dropout", "encoder_layerdrop", "init_std", "num_hidden_layers", "tie_word_embeddings"]
    + ["max_target_positions", "vocab_size", "median_filter_width", "classifier_proj_size", "use_weighted_layer_sum"]
    + ["apply_spec_augment"]
    + [f"mask_{kind}_{name}" for kind in ("time", "feature") for name in ("length", "min_masks", "prob")]
)
"""Keys of Whisper's decoder, of its heads and of training, which leave the features of the encoder as they are."""


def load_whisper_encoder(directory: Path) -> WhisperEncoder:
    """The encoder of a Whisper model in a directory, in float32. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
    config = whisper_config(read_hub_config(directory), directory)
    check_preprocessing(directory, config)
    with saving.without_weights():
        encoder = WhisperEncoder(config)
    tensors = {name.removeprefix("model."): tensor for name, tensor in read_tensors(directory).items()}
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    load(encoder, _pieces(config), tensors, directory)
    return encoder


def whisper_config(hub: Mapping[str, Any], where: Path | str = CONFIG) -> Config:
    """The shape of the encoder, from config.json."""
    if hub.get("model_type") != "whisper":
        raise ArtifactError(f"{where}: a model of type {hub.get('model_type')!r}, not 'whisper'")
    keys = HubKeys(hub, where, reader="our Whisper encoder")
    keys.only("activation_function", "gelu")
    keys.only("scale_embedding", False)
    keys.only("is_encoder_decoder", True, False)  # no if the file holds the encoder alone
    try:
        config = Config(
            mels=keys.count("num_mel_bins"),
            frames=2 * keys.count("max_source_positions"),
            width=keys.count("d_model"),
            depth=keys.count("encoder_layers"),
            heads=keys.count("encoder_attention_heads"),
            feed_forward_width=keys.count("encoder_ffn_dim"),
        )
    except ValidationError as error:
        raise ConfigError(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    keys.finish(DECODER)
    return config


def check_preprocessing(directory: Path, config: Config) -> None:
    """Raise `ConfigError` unless preprocessor_config.json, if there is one, states the spectrogram of `LogMel`."""
    if not (directory / PREPROCESSOR).is_file():
        return
    keys = HubKeys(read_hub_config(directory, PREPROCESSOR), directory / PREPROCESSOR, reader="our spectrogram")
    seconds = config.frames * HOP / RATE
    for name, value in {
        "sampling_rate": RATE,
        "n_fft": WINDOW,
        "hop_length": HOP,
        "feature_size": config.mels,
        "chunk_length": int(seconds) if seconds.is_integer() else seconds,
        "n_samples": config.frames * HOP,
        "nb_max_frames": config.frames,
        "padding_side": "right",
        "do_normalize": False,
    }.items():
        keys.only(name, value)
    for name in ("padding_value", "dither"):
        keys.only(name, 0.0, 0)
    keys.finish(("feature_extractor_type", "processor_class", "return_attention_mask", "mel_filters"))


def export_whisper_encoder(encoder: WhisperEncoder, directory: Path) -> None:
    """Write the encoder in the layout of transformers' class WhisperEncoder."""
    config = encoder.config
    hub = {
        "architectures": ["WhisperEncoder"],
        "model_type": "whisper",
        "num_mel_bins": config.mels,
        "max_source_positions": config.frames // 2,
        "d_model": config.width,
        "encoder_layers": config.depth,
        "encoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.inner_width,
        "activation_function": "gelu",
        "dtype": "float32",
    }
    saving.save_published(published(encoder, _pieces(config)), directory, hub)


def _pieces(config: Config) -> list[Piece]:
    pieces = [
        *layer("first", "conv1"),
        *layer("second", "conv2"),
        Piece("positions", ("embed_positions.weight",)),
        *layer("norm", "layer_norm"),
    ]
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"layers.{index}"
        query, key, value = (f"{theirs}.self_attn.{name}_proj" for name in "qkv")
        rows = (config.width,) * 3
        pieces += [
            *layer(f"{ours}.attention_norm", f"{theirs}.self_attn_layer_norm"),
            *fused(f"{ours}.attention.qkv", (query, key, value), rows, ("weight",)),
            Piece(f"{ours}.attention.qkv.bias", (f"{query}.bias", "", f"{value}.bias"), rows),
            *layer(f"{ours}.attention.out", f"{theirs}.self_attn.out_proj"),
            *layer(f"{ours}.feed_forward_norm", f"{theirs}.final_layer_norm"),
            *layer(f"{ours}.feed_forward.inner", f"{theirs}.fc1"),
            *layer(f"{ours}.feed_forward.out", f"{theirs}.fc2"),
        ]
    return pieces
