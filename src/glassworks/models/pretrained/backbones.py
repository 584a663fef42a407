"""timm weights in the hub's layout for a backbone: the state dict without the modules after the chosen layers."""

from pathlib import Path
from typing import Any

from torch import Tensor

from glassworks.artifacts.model_files import CONFIG, read_timm_config
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import saving
from glassworks.models.backbone import Backbone
from glassworks.models.pretrained.mapping import read_tensors
from glassworks.models.settings.backbone import Backbone as Config

HEAD = ("num_classes", "global_pool", "class_token_pool", "drop_rate")
"""Arguments of timm that concern the classifier or training."""


def read_arguments(config: Config, directory: Path) -> Config:
    """The settings of a backbone with the arguments that the weights in a directory were made with (timm's `model_args`).

    Raises `ConfigError` for weights of images that are not in three colours.
    """
    hub = read_timm_config(directory)
    arguments = {
        name: value
        for name, value in (hub.get("model_args") or {}).items()
        if name not in (*HEAD, "img_size") and value is not None
    }
    if arguments.pop("in_chans", 3) != 3:
        raise ConfigError(
            f"{directory / CONFIG}: model_args.in_chans is {hub['model_args']['in_chans']}; images have 3 colours"
        )
    if not arguments:
        return config
    return config.model_copy(update={"arguments": {**arguments, **config.arguments}})


def load_backbone(backbone: Backbone, directory: Path) -> None:
    """Load weights, mean and standard deviation of the same timm model from a directory into `backbone`.

    Raises `ArtifactError` naming a different model, or listing missing, extra and misshapen tensors. The classifier may be
    missing or have other classes.
    """
    import timm

    hub = read_timm_config(directory)
    wanted, found = (str(name).partition(".")[0] for name in (backbone.config.name, hub.get("architecture")))
    if found != wanted:
        what = found if "architecture" in hub else f"a model of type {hub.get('model_type')!r}, not of timm"
        raise ArtifactError(f"{directory / CONFIG}: {what}, where model.backbone.name is {backbone.config.name}")
    pretrained = hub.get("pretrained_cfg") or {}
    needed = read_arguments(backbone.config, directory).arguments
    if needed != backbone.config.arguments:
        raise ConfigError(
            f"{directory / CONFIG}: model_args {needed} differ from model.backbone.arguments {backbone.config.arguments}"
        )
    sized = (
        {"img_size": pretrained["input_size"][-1]}
        if "input_size" in pretrained and hasattr(backbone.network, "patch_embed")
        else {}
    )
    with saving.without_weights():
        whole = timm.create_model(wanted, pretrained=False, **{**sized, **(hub.get("model_args") or {})})
    heads = [whole.pretrained_cfg["classifier"]] if whole.pretrained_cfg.get("classifier") else []
    heads = [name for entry in heads for name in ([entry] if isinstance(entry, str) else entry)]
    tensors = {name: tensor for name, tensor in read_tensors(directory).items() if not _is_in(name, heads)}
    expected = {name: tensor.shape for name, tensor in whole.state_dict().items() if not _is_in(name, heads)}
    saving.check(expected, tensors, directory)
    kept = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    names = backbone.network.state_dict().keys()
    saving.assign(
        backbone.network, {name: _resized(name, kept[name], backbone) for name in names if name in kept}, directory
    )
    statistics = whole.pretrained_cfg | {key: pretrained[key] for key in ("mean", "std") if pretrained.get(key)}
    backbone.standardise_by(statistics["mean"], statistics["std"])


def _is_in(name: str, modules: list[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _resized(name: str, tensor: Tensor, backbone: Backbone) -> Tensor:
    """A ViT's positions for another image size, by bicubic interpolation; other tensors unchanged."""
    from timm.layers import resample_abs_pos_embed

    network: Any = backbone.network
    if name != "pos_embed" or tensor.shape == network.pos_embed.shape:
        return tensor
    prefix = 0 if getattr(network, "no_embed_class", False) else network.num_prefix_tokens
    return resample_abs_pos_embed(tensor, list(network.patch_embed.grid_size), num_prefix_tokens=prefix)
