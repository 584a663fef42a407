"""The protocol of a task's module, and the way to load one by its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from torch import nn

from glassworks.config import registry
from glassworks.config.data import Options
from glassworks.config.experiment import Experiment
from glassworks.data.reading.rows import Keyed
from glassworks.training.task import Batch, Task

AnyTask = Task[nn.Module, object, Batch, Keyed, Options]
"""A task loaded by name: its caller passes models, examples, batches and rows through unexamined."""


class TaskModule(Protocol):
    """The code of a task: tasks/NAME/task.py."""

    def make(self, experiment: Experiment, inputs: Mapping[str, Path], fingerprint: dict[str, object], /) -> AnyTask:
        """The task of an experiment, given the directories of its inputs.

        Adds whatever may change bytes, such as the version of a library, to `fingerprint`.
        """
        ...

    def load(self, inputs: Mapping[str, Path], data: Mapping[str, object], /) -> tuple[AnyTask, nn.Module]:
        """The task of a trained model and the model in eval mode. `data` is the section `data` of its experiment."""
        ...


def load_task_module(name: str) -> TaskModule:
    """The code of a task by its name in an experiment."""
    return cast(TaskModule, registry.code("tasks", name))
