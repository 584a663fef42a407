"""Finds NaN and infinite values in tensors: before a checkpoint, before publication, and after reading a file of weights."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from glassworks.errors import ArtifactError

if TYPE_CHECKING:  # the stage table imports this package without torch
    from torch import Tensor

LISTED = 3
"""Maximum tensors that an error names."""


def not_finite(tensors: "Mapping[str, Tensor]") -> list[str]:
    """Names of the tensors that hold a NaN or infinite value. A GPU is waited for once, after all checks."""
    flags = [(name, tensor.isfinite().all()) for name, tensor in tensors.items() if tensor.is_floating_point()]
    return [name for name, flag in flags if not flag]


def check_finite(tensors: "Mapping[str, Tensor]", where: Path | str, remedy: str = "use other weights") -> None:
    """Raise `ArtifactError` naming the tensors that hold a NaN or infinite value."""
    wrong = not_finite(tensors)
    if wrong:
        raise ArtifactError(f"{where}: {listed(wrong)} {holds(wrong)} NaN or infinite values; {remedy}")


def listed(names: Iterable[str]) -> str:
    """The first names, and the number of the others."""
    found = list(names)
    more = len(found) - LISTED
    return ", ".join(found[:LISTED]) + (f" and {more} more" if more > 0 else "")


def holds(names: list[str]) -> str:
    return "holds" if len(names) == 1 else "hold"
