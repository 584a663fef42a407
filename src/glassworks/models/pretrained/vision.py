"""CLIP's image tower in transformers' layout and timm's ViT, as our Vision Transformer and back.

Language models usually read CLIP's features of the penultimate block, without the final norm: `encoder.layers(images, [-2])`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from glassworks.artifacts.model_files import CONFIG, read_hub_config, read_timm_config
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import saving
from glassworks.models.pretrained.hub_keys import HubKeys
from glassworks.models.pretrained.mapping import Piece, fused, layer, load, published, read_tensors
from glassworks.models.settings.vision_transformer import VisionTransformer as Config
from glassworks.models.vision_transformer import VisionTransformer

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
TYPES = ("clip", "clip_vision_model")
"""transformers' types of CLIP: with its text tower, and the image tower alone."""
NETWORK = "our image encoder"
PREPROCESSOR = "preprocessor_config.json"
BESIDES = frozenset(
    ["initializer_factor", "logit_scale_init_value", "projection_dim", "text_config", "text_config_dict", "dropout"]
)
"""Keys of CLIP's text tower, of the projections behind both towers, and of training."""
SIZES = (
    "_processor_class",
    "_valid_processor_keys",
    "crop_size",
    "data_format",
    "default_to_square",
    "device",
    "do_center_crop",
    "do_convert_rgb",
    "do_pad",
    "do_resize",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "pad_size",
    "processor_class",
    "resample",
    "return_tensors",
    "size",
    "use_square_size",
)
"""Keys of preprocessor_config.json about the size of an image, which is ours, and about the program that reads it."""
TOWER = "vision_model."
"""Name prefix of the image tower in files on the hub. transformers 5 omits it."""


def load_vision_transformer(directory: Path) -> VisionTransformer:
    """The image encoder in a directory, in float32: CLIP's (with or without its text tower) or a ViT of timm.

    Raises `ArtifactError` listing missing, extra and misshapen tensors, and `ConfigError` naming a setting that our network lacks.
    """
    hub = read_timm_config(directory)
    config = vision_config(hub, directory)
    if "architecture" not in hub:
        config = config.model_copy(update=preprocessing(directory))
    with saving.without_weights():
        encoder = VisionTransformer(config)
    tensors = read_tensors(directory)
    if "architecture" in hub:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
        load(encoder, _timm_pieces(config), tensors, directory)
    else:
        load(encoder, _clip_pieces(config), _tower(tensors), directory)
    return encoder


def vision_config(hub: Mapping[str, Any], where: Path | str = CONFIG) -> Config:
    """The shape of our network that computes the published model, from its config.json."""
    if "architecture" in hub:
        return _timm_config(hub, where)
    if hub.get("model_type") not in TYPES:
        raise ArtifactError(
            f"{where}: a model of type {hub.get('model_type')!r}; image encoders are read of CLIP and of timm, which has SigLIP and DINOv2, too"
        )
    if hub["model_type"] == "clip":
        keys = HubKeys(hub, where, reader=NETWORK)
        # transformers lets the older key override the newer one
        given = {**keys.need("vision_config"), **(keys.get("vision_config_dict") or {})}
        keys.finish(BESIDES)
        keys = HubKeys(given, where, "vision_config.", NETWORK)
        keys.only("model_type", "clip_vision_model")
    else:
        keys = HubKeys(hub, where, reader=NETWORK)
    keys.only("num_channels", 3)
    try:
        config = Config(
            image_size=keys.count("image_size", 224),
            patch_size=keys.count("patch_size", 32),
            width=keys.count("hidden_size", 768),
            depth=keys.count("num_hidden_layers", 12),
            heads=keys.count("num_attention_heads", 12),
            class_token=True,
            first_norm=True,
            patch_bias=False,
            norm_eps=keys.number("layer_norm_eps", 1e-5),
            feed_forward=ACTIVATIONS[keys.only("hidden_act", *ACTIVATIONS)],
            feed_forward_width=keys.count("intermediate_size", 3072),
            mean=CLIP_MEAN,
            std=CLIP_STD,
        )
    except ValidationError as error:
        raise ConfigError(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    keys.finish(BESIDES)
    return config


def preprocessing(directory: Path) -> dict[str, Any]:
    """Mean and standard deviation from preprocessor_config.json; empty without the file.

    Raises `ConfigError` naming a key that changes the values of pixels and is not read. Sizes and crops are not applied: every image is resized to the square.
    """
    if not (directory / PREPROCESSOR).is_file():
        return {}
    keys = HubKeys(read_hub_config(directory, PREPROCESSOR), directory / PREPROCESSOR, reader="our image encoder")
    for name in ("do_normalize", "do_rescale"):
        keys.only(name, True, None)
    factor = keys.number("rescale_factor", 1 / 255)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise keys.refusal("rescale_factor", factor, "1/255")
    found = {"mean": keys.numbers("image_mean", 3, CLIP_MEAN), "std": keys.numbers("image_std", 3, CLIP_STD)}
    keys.finish(SIZES)
    return found


def export_vision_transformer(encoder: VisionTransformer, directory: Path) -> None:
    """Write an image encoder as transformers' CLIPVisionModel or as timm's ViT. Raises `ConfigError` when it matches neither."""
    config = encoder.config
    if config.stem != "linear" or not config.class_token or config.first_norm == config.patch_bias:
        raise ConfigError(
            "model.encoder: neither CLIP's nor timm's: both have a linear stem and a class token, CLIP a first norm and no patch bias, timm the reverse"
        )
    if config.first_norm:
        hub = {
            "architectures": ["CLIPVisionModel"],
            "model_type": "clip_vision_model",
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "hidden_size": config.width,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.heads,
            "intermediate_size": config.inner_width,
            "layer_norm_eps": config.norm_eps,
            "hidden_act": config.feed_forward,
            "dtype": "float32",
        }
        tensors = {TOWER + name: tensor for name, tensor in published(encoder, _clip_pieces(config)).items()}
    elif config.feed_forward == "gelu" and config.norm_eps == 1e-6:
        hub = {
            "architecture": "vit_base_patch16_224",
            "num_classes": 0,
            "model_args": {
                "img_size": config.image_size,
                "patch_size": config.patch_size,
                "embed_dim": config.width,
                "depth": config.depth,
                "num_heads": config.heads,
                "mlp_ratio": config.inner_width / config.width,
            },
            "pretrained_cfg": {
                "input_size": [3, config.image_size, config.image_size],
                "mean": list(config.mean),
                "std": list(config.std),
                "num_classes": 0,
            },
        }
        tensors = published(encoder, _timm_pieces(config))
    else:
        raise ConfigError("model.encoder: timm's ViT has feed_forward gelu and norm_eps 1e-6")
    saving.save_published(tensors, directory, hub)


def _timm_config(hub: Mapping[str, Any], where: Path | str) -> Config:
    """The shape of a ViT of timm, read from the network, which is built on the meta device. timm's config has only its name."""
    import timm
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    name = hub["architecture"].partition(".")[0]
    if not timm.is_model(name):
        raise ArtifactError(f"{where}: timm has no model {name!r}")
    with saving.without_weights():
        network = timm.create_model(name, pretrained=False, **(hub.get("model_args") or {}))
    if type(network) is not TimmViT or not _is_plain(network):
        raise ConfigError(
            f"{where}: {name} is not the plain Vision Transformer; use it as a backbone (model.backbone.name)"
        )
    pretrained, block = hub.get("pretrained_cfg") or {}, network.blocks[0]
    return Config(
        image_size=network.patch_embed.img_size[0],
        patch_size=network.patch_embed.patch_size[0],
        width=network.embed_dim,
        depth=len(network.blocks),
        heads=block.attn.num_heads,
        class_token=True,
        first_norm=not isinstance(network.norm_pre, nn.Identity),
        patch_bias=network.patch_embed.proj.bias is not None,
        norm_eps=block.norm1.eps,
        feed_forward_width=block.mlp.fc1.out_features,
        mean=tuple(pretrained.get("mean") or network.pretrained_cfg["mean"]),
        std=tuple(pretrained.get("std") or network.pretrained_cfg["std"]),
    )


def _is_plain(network: Any) -> bool:
    """Whether a ViT of timm has a class token, all positions, exact GELU, and no part that ours lacks."""
    from timm.layers import LayerNorm, Mlp
    from timm.models.vision_transformer import Attention, Block

    block = network.blocks[0]
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and type(block.mlp) is Mlp
        and all(type(norm) in (nn.LayerNorm, LayerNorm) for norm in (block.norm1, block.norm2, network.norm))
        and isinstance(block.mlp.norm, nn.Identity)
        and isinstance(getattr(block.attn, "norm", None) or nn.Identity(), nn.Identity)
        and block.norm2.eps == network.norm.eps == block.norm1.eps
        and network.cls_token is not None
        and network.num_prefix_tokens == 1
        and not network.no_embed_class
        and isinstance(block.mlp.act, nn.GELU)
        and block.mlp.act.approximate == "none"
        and isinstance(block.attn.q_norm, nn.Identity)
        and isinstance(block.ls1, nn.Identity)
        and isinstance(network.norm, nn.LayerNorm)
    )


def _tower(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the image tower, without text tower, projections and constants."""
    if any(name.startswith(TOWER) for name in tensors):
        tensors = {name.removeprefix(TOWER): tensor for name, tensor in tensors.items() if name.startswith(TOWER)}
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("embeddings.position_ids")}


def _clip_pieces(config: Config) -> list[Piece]:
    patch = (config.width, 3, config.patch_size, config.patch_size)
    pieces = [
        Piece("class_token", ("embeddings.class_embedding",)),
        Piece("stem.project.weight", ("embeddings.patch_embedding.weight",), shape=patch),
        Piece("positions", ("embeddings.position_embedding.weight",)),
        *layer("first_norm", "pre_layrnorm"),  # misspelt so in every file
        *layer("norm", "post_layernorm"),
    ]
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"encoder.layers.{index}"
        qkv = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
        pieces += [
            *layer(f"{ours}.attention_norm", f"{theirs}.layer_norm1"),
            *fused(f"{ours}.attention.qkv", qkv, (config.width,) * 3),
            *layer(f"{ours}.attention.out", f"{theirs}.self_attn.out_proj"),
            *layer(f"{ours}.feed_forward_norm", f"{theirs}.layer_norm2"),
            *layer(f"{ours}.feed_forward.inner", f"{theirs}.mlp.fc1"),
            *layer(f"{ours}.feed_forward.out", f"{theirs}.mlp.fc2"),
        ]
    return pieces


def _timm_pieces(config: Config) -> list[Piece]:
    places = (config.image_size // config.patch_size) ** 2 + 1
    pieces = [
        Piece("class_token", ("cls_token",), shape=(1, 1, config.width)),
        Piece(
            "stem.project.weight",
            ("patch_embed.proj.weight",),
            shape=(config.width, 3, config.patch_size, config.patch_size),
        ),
        Piece("positions", ("pos_embed",), shape=(1, places, config.width)),
        *layer("norm", "norm"),
    ]
    if config.patch_bias:
        pieces += layer("stem.project", "patch_embed.proj", ("bias",))
    if config.first_norm:
        pieces += layer("first_norm", "norm_pre")
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"blocks.{index}"
        pieces += [
            *layer(f"{ours}.attention_norm", f"{theirs}.norm1"),
            *layer(f"{ours}.attention.qkv", f"{theirs}.attn.qkv"),
            *layer(f"{ours}.attention.out", f"{theirs}.attn.proj"),
            *layer(f"{ours}.feed_forward_norm", f"{theirs}.norm2"),
            *layer(f"{ours}.feed_forward.inner", f"{theirs}.mlp.fc1"),
            *layer(f"{ours}.feed_forward.out", f"{theirs}.mlp.fc2"),
        ]
    return pieces
