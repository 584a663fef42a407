"""Parameter groups: matching by name, training windows, weight decay, and the optimizer over them."""

import fnmatch
import inspect
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from glassworks.config.base import nearest
from glassworks.config.optimization import Optimization, ParameterGroup
from glassworks.errors import ConfigError
from glassworks.training.muon import Muon
from glassworks.training.schedules import learning_rate

DEFAULT = "default"


class ParameterGroups:
    """The parameters of a model by the groups of the configuration. Unmatched parameters are in "default".

    Parameters that the model itself freezes (`requires_grad` is False when it is built) belong to no group and are never trained.
    """

    def __init__(self, model: nn.Module, config: Optimization, steps: int) -> None:
        self.model, self.config, self.steps = model, config, steps
        self.members: dict[str, list[str]] = {DEFAULT: [], **{name: [] for name in config.groups}}
        self.parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self.active: list[str] | None = None
        self.resting: list[nn.Module] = []
        for name in self.parameters:
            self.members[self._group_of(name)].append(name)
        for group, settings in config.groups.items():
            for pattern in settings.parameters:
                if not fnmatch.filter(self.parameters, pattern):
                    hint = nearest(pattern, sorted({name.split(".")[0] + ".*" for name in self.parameters}))
                    raise ConfigError(f"optimization.groups.{group}: no parameter is called {pattern!r}{hint}")
            if not self.members[group]:
                raise ConfigError(f"optimization.groups.{group}: earlier groups have taken all its parameters; reorder")

        moving = {name for group in self.members if not self._frozen(group) for name in self.members[group]}
        self.trainable = {name: one for name, one in self.parameters.items() if name in moving}
        """Parameters that some step trains: the state of a run. All other tensors keep their initial values."""
        ends = {0, *(step for one in config.groups.values() for step in (one.train_from, one.train_until) if step)}
        for step in sorted(end for end in ends if end < steps):
            if not self.trained(step):
                raise ConfigError(f"optimization.groups: step {step} trains no parameter; leave one group unfrozen")

    def trained(self, step: int) -> list[nn.Parameter]:
        """The parameters trained at step `step`, in the order of the model."""
        active = {name for group in self.members if self._active(group, step) for name in self.members[group]}
        return [parameter for name, parameter in self.parameters.items() if name in active]

    def prepare(self, step: int) -> bool:
        """Whether the trained parameters changed. Sets `requires_grad` of parameters and the mode of modules for a step.

        A module whose parameters are all frozen is in eval mode. So is a module with running statistics (batch norm): batch statistics would depend on the cut
        into micro-batches.
        """
        active = [group for group in self.members if self._active(group, step)]
        changed = active != self.active
        if changed:
            self.active = active
            trained = {id(parameter) for parameter in self.trained(step)}
            for parameter in self.parameters.values():
                parameter.requires_grad_(id(parameter) in trained)
            self.resting = [module for module in self.model.modules() if _rests(module)]
        if changed or not self.model.training:
            self.model.train()
            for module in self.resting:
                module.eval()
        return changed

    def rates(self, step: int) -> dict[str, float]:
        """The learning rate of every group at a step; 0 where it is frozen."""
        return {group: learning_rate(self.config, step, self.steps, self._settings(group)) for group in self.members}

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The configured optimizer, over two groups per parameter group: with and without weight decay."""
        optimizer_class = _optimizer_class(self.config.optimizer)
        groups = [group for name in self.members for group in self._optimizer_groups(name)]
        known = inspect.signature(optimizer_class).parameters
        unknown = [name for name in self.config.options if name not in known]
        if unknown:
            hint = nearest(unknown[0], sorted(known.keys() - {"params", "lr"}))
            raise ConfigError(f"optimization.options.{unknown[0]}: {self.config.optimizer} has no such argument{hint}")
        options: dict[str, object] = {"lr": self.config.learning_rate, **self.config.options}
        for name in ("betas", "eps"):
            single = name == "betas" or isinstance(known[name].default if name in known else None, float)
            if name in known and single:
                options[name] = getattr(self.config, name)
            elif name in self.config.model_fields_set:
                raise ConfigError(f"optimization.{name}: {self.config.optimizer} has none; remove it or use options")
        kinds = {parameter.device.type for parameter in self.parameters.values()}
        if "fused" in known and not (self.config.optimizer == "Adagrad" and "mps" in kinds):  # which has no such kernel
            options["fused"] = True
        elif "foreach" in known:
            options["foreach"] = False
        if "weight_decay" not in known:
            if "weight_decay" in self.config.model_fields_set:
                raise ConfigError(f"optimization.weight_decay: {self.config.optimizer} has none; remove it")
            groups = [{name: value for name, value in group.items() if name != "weight_decay"} for group in groups]
        try:
            optimizer: torch.optim.Optimizer = optimizer_class(groups, **options)
            return optimizer
        except (ValueError, TypeError) as error:
            raise ConfigError(f"optimization: {self.config.optimizer}: {error}") from None

    def set_rates(self, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
        """The rates of a step, after setting them in the optimizer."""
        rates = self.rates(step)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["group"]]
        return rates

    def _optimizer_groups(self, group: str) -> Iterator[dict[str, object]]:
        settings = self._settings(group)
        decay = self.config.weight_decay
        if settings is not None and settings.weight_decay is not None:
            decay = settings.weight_decay
        decayed = [name for name in self.members[group] if _decays(name, self.parameters[name])]
        plain = [name for name in self.members[group] if not _decays(name, self.parameters[name])]
        if self._orthogonal:
            tables = {id(module.weight) for module in self.model.modules() if isinstance(module, nn.Embedding)}
            matrices = [name for name in decayed if _is_matrix(name, self.parameters[name], tables)]
            decayed = [name for name in decayed if name not in matrices]
            if matrices:
                members = [self.parameters[name] for name in matrices]
                yield {"params": members, "weight_decay": decay, "group": group, "orthogonal": True}
        for names, value in ((decayed, decay), (plain, 0.0)):
            if names:
                yield {"params": [self.parameters[name] for name in names], "weight_decay": value, "group": group}

    @property
    def _orthogonal(self) -> bool:
        return self.config.optimizer == "Muon"

    def _group_of(self, name: str) -> str:
        for group, settings in self.config.groups.items():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.parameters):
                return group
        return DEFAULT

    def _settings(self, group: str) -> ParameterGroup | None:
        return self.config.groups.get(group)

    def _active(self, group: str, step: int) -> bool:
        settings = self._settings(group)
        if settings is None:
            return True
        until = self.steps if settings.train_until is None else settings.train_until
        return not settings.frozen and settings.train_from <= step < until

    def _frozen(self, group: str) -> bool:
        """Whether no step trains the group."""
        settings = self._settings(group)
        return settings is not None and (settings.frozen or settings.train_from >= self.steps)


def _optimizer_class(name: str) -> Any:
    """The class of an optimizer. Raises `ConfigError` if its library is missing."""
    if name == "Muon":
        return Muon
    if name != "AdamW8bit":
        return getattr(torch.optim, name)
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)  # it warns of a matrix product that is not used
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ConfigError(
            "optimization.optimizer: AdamW8bit needs the package bitsandbytes; install it with the extra: "
            "pip install 'glassworks[quantisation]'"
        ) from None
    return AdamW8bit


def _rests(module: nn.Module) -> bool:
    own = [parameter.requires_grad for parameter in module.parameters()]
    return (bool(own) and not any(own)) or getattr(module, "track_running_stats", False)


def _is_matrix(name: str, parameter: nn.Parameter, tables: set[int]) -> bool:
    """Whether Muon orthogonalises a parameter: the matrix of a linear map, but no embedding and no output layer."""
    return parameter.ndim == 2 and id(parameter) not in tables and not name.endswith("head.weight")


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, but not to positions and 1-D parameters (norms, biases, gates, logit scales)."""
    return parameter.ndim >= 2 and "position" not in name
