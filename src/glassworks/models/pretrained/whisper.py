"""Whisper in transformers' layout, as our encoder and back. The decoder of a file is ignored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glassworks.artifacts.model_files import CONFIG, read_hub_config
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import saving
from glassworks.models.pretrained.mapping import Piece, fused, layer, load, published, read_tensors
from glassworks.models.settings.whisper_encoder import WhisperEncoder as Config
from glassworks.models.whisper_encoder import WhisperEncoder


def load_whisper_encoder(directory: Path) -> WhisperEncoder:
    """The encoder of a Whisper model in a directory, in float32. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
    config = whisper_config(read_hub_config(directory), directory)
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
    if (activation := hub.get("activation_function", "gelu")) != "gelu" or hub.get("scale_embedding", False):
        raise ConfigError(f"{where}: a Whisper with {activation} or scaled embeddings is not read")
    try:
        return Config(
            mels=hub["num_mel_bins"],
            frames=2 * hub["max_source_positions"],
            width=hub["d_model"],
            depth=hub["encoder_layers"],
            heads=hub["encoder_attention_heads"],
            feed_forward_width=hub["encoder_ffn_dim"],
        )
    except KeyError as error:
        raise ArtifactError(f"{where}: the configuration of a Whisper without {error}") from None


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
