"""Image encoders of timm behind one interface: images to tokens of one or several layers.

The tokens of a ViT are its patch tokens, those of a convolutional network the positions of its feature maps. Both precede any final norm and pooling.
"""

import copy
import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from glassworks.errors import ConfigError
from glassworks.models.settings.backbone import Backbone as Config

MERGED = 1e-3
"""Largest change of an output by merged batch norms, of the largest output."""


class Backbone(nn.Module):
    """Images [B, 3, I, I] in [-1, 1] to one tensor of tokens [B, N, C] per chosen layer. N is that of the finest layer.

    Batch norm always uses its stored statistics, because batch statistics would depend on the micro-batches.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.network: Any = create(config.name, config.image_size, config.arguments)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.standardise_by(self.network.pretrained_cfg["mean"], self.network.pretrained_cfg["std"])
        self.train()
        try:
            with torch.no_grad():
                maps = self._maps(torch.zeros(1, 3, config.image_size, config.image_size), None)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise _refusal(config.name, config.image_size, error) from None
        if not all(-len(maps) <= layer < len(maps) for layer in config.layers):
            raise ConfigError(
                f"model.backbone.layers: {config.name} has the layers 0 to {len(maps) - 1} (or -1 to -{len(maps)}), not {list(config.layers)}"
            )
        self.indices = [range(len(maps))[layer] for layer in config.layers]
        self.widths = [maps[index].shape[1] for index in self.indices]
        self.places = max(maps[index].shape[-1] for index in self.indices) ** 2
        # Modules after the last chosen layer would cost time and never get a gradient.
        self.network.prune_intermediate_layers(sorted(set(self.indices)), prune_norm=True, prune_head=True)

    def standardise_by(self, mean: Any, std: Any) -> None:
        """Set the mean and standard deviation of red, green and blue (0 … 1) from pretraining. Both are saved with the weights."""
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(std))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = dict(zip(sorted(set(self.indices)), self._maps(images, sorted(set(self.indices))), strict=True))
        finest = max(one.shape[-1] for one in maps.values())
        tokens = {index: _tokens(one, finest) for index, one in maps.items()}
        return [tokens[index] for index in self.indices]

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    @torch.no_grad()
    def freeze(self) -> "Backbone":
        """Prepare a network that is never trained: no gradients, every batch norm merged into its convolution, and channels last.

        The outputs change by rounding only. A network that reads the output of such a convolution elsewhere, too, keeps its batch norms.
        """
        self.eval().requires_grad_(False)
        side, whole = self.config.image_size, copy.deepcopy(self.network)
        probe = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        before = self(probe)
        names = {module: name for name, module in self.network.named_modules()}
        for convolution, norm in self._normalised(probe).items():
            self.network.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, norm))
            activation = getattr(norm, "act", nn.Identity())  # timm joins it to the norm
            self.network.set_submodule(names[norm], activation)
        if any(
            (new - old).abs().max() > MERGED * old.abs().max() for new, old in zip(self(probe), before, strict=True)
        ):
            self.network = whole
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _normalised(self, images: Tensor) -> dict[nn.Conv2d, _BatchNorm]:
        """The batch norm that reads the output of a convolution, for each that has one."""
        made: dict[nn.Conv2d, Tensor] = {}
        found: dict[nn.Conv2d, _BatchNorm] = {}

        def convolves(module: nn.Conv2d, _: Any, output: Tensor) -> None:
            made[module] = output

        def norms(module: _BatchNorm, inputs: tuple[Tensor]) -> None:
            found.update((convolution, module) for convolution, output in made.items() if output is inputs[0])

        hooks = []
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                hooks.append(module.register_forward_hook(convolves))
            elif isinstance(module, _BatchNorm):
                hooks.append(module.register_forward_pre_hook(norms))
        try:
            self(images)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _maps(self, images: Tensor, indices: list[int] | None) -> list[Tensor]:
        """Feature maps [B, C, H, W]; of all layers without `indices`."""
        scaled = ((images + 1) / 2 - self.mean[:, None, None]) / self.std[:, None, None]
        return self.network.forward_intermediates(
            scaled, indices=indices, intermediates_only=True, output_fmt="NCHW", norm=False
        )


def create(name: str, image_size: int, arguments: Mapping[str, Any] | None = None) -> Any:
    """A timm network with random weights and no classifier, with further arguments of timm's `create_model`. Raises `ConfigError` that suggests similar names for an unknown name."""
    import timm

    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` lists them"
        raise ConfigError(f"model.backbone.name: timm has no model {name!r}{hint}")
    options = {**(arguments or {}), "pretrained": False, "num_classes": 0}
    try:
        try:
            network = timm.create_model(name, img_size=image_size, **options)
        except TypeError:  # convolutional networks accept any image size and lack the argument
            network = timm.create_model(name, **options)
    except TypeError as error:
        raise ConfigError(f"model.backbone: timm's {name} takes no such argument ({error})") from None
    except (AssertionError, ValueError, RuntimeError) as error:
        raise _refusal(name, image_size, error) from None
    if not hasattr(network, "forward_intermediates"):
        raise ConfigError(f"model.backbone.name: timm gives no layers of {name}, only its end; choose another model")
    return network


def _refusal(name: str, image_size: int, error: Exception) -> ConfigError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(f"model.backbone: timm's {name} does not take images of {image_size} pixels ({why})")


def _tokens(maps: Tensor, side: int) -> Tensor:
    """Feature maps [B, C, H, W] as tokens [B, side * side, C]. Positions of a coarser map are repeated."""
    if maps.shape[-1] != side:
        maps = nn.functional.interpolate(maps, size=(side, side), mode="nearest")
    return maps.flatten(2).transpose(1, 2)
