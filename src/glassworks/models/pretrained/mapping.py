"""Mapping between our tensors and published tensors: one list for both directions.

Our networks fuse projections that are computed together (queries, keys and values; gate and up). One of our tensors may therefore concatenate several
published tensors along the rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glassworks.artifacts.model_files import weight_files
from glassworks.errors import ArtifactError
from glassworks.models import saving

WRAPPERS = {
    "_orig_mod.": "torch.compile; save the model that was compiled",
    "module.": "DistributedDataParallel; save `model.module`",
    "base_model.model.": "peft; call `merge_and_unload()` and save the result",
}
"""Prefixes of wrapped models, and the remedy."""


@dataclass(frozen=True)
class Piece:
    """One of our tensors, and the published tensors it is built from."""

    ours: str
    theirs: tuple[str, ...]
    """Names of the published tensors, in the order of their rows; "" for unpublished rows of zeros."""
    rows: tuple[int, ...] = ()
    """Rows of each published tensor, if there are several."""
    transposed: bool = False
    """Whether the published tensor is [in, out], as in GPT-2, instead of [out, in]."""
    shape: tuple[int, ...] = ()
    """Shape of the published tensor, if only the shape differs."""
    shift: float = 0.0
    """Added to the published tensor: Gemma's norms store their weight less 1."""

    def shapes(self, ours: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of the published tensors, from the shape of our tensor."""
        shapes = [(rows, *ours[1:]) for rows in self.rows or ours[:1]]
        return [self.shape or (shape[::-1] if self.transposed else shape) for shape in shapes]

    def join(self, theirs: Sequence[Tensor], ours: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Our tensor, in `dtype`."""
        parts = [(tensor.t() if self.transposed else tensor).to(dtype) for tensor in theirs]
        joined = torch.cat(parts).reshape(tuple(ours)).contiguous()
        return joined + self.shift if self.shift else joined

    def cut(self, ours: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The published tensors cut from our tensor, with their names."""
        ours = ours - self.shift if self.shift else ours
        parts = ours.split(self.rows) if self.rows else [ours]
        for name, part in zip(self.theirs, parts, strict=True):
            if name:
                yield name, (part.t() if self.transposed else part.reshape(self.shape or part.shape)).contiguous()


def layer(
    ours: str,
    theirs: str,
    parts: tuple[str, ...] = ("weight", "bias"),
    transposed: bool = False,
    shift: float = 0.0,
) -> list[Piece]:
    """Weight and bias of a layer with another published name; `transposed` if its matrix is [in, out]."""
    return [
        Piece(f"{ours}.{part}", (f"{theirs}.{part}",), transposed=transposed and part == "weight", shift=shift)
        for part in parts
    ]


def fused(
    ours: str, theirs: Sequence[str], rows: Sequence[int], parts: tuple[str, ...] = ("weight", "bias")
) -> list[Piece]:
    """Several published layers that are one of our layers."""
    return [Piece(f"{ours}.{part}", tuple(f"{name}.{part}" for name in theirs), tuple(rows)) for part in parts]


def load(
    module: torch.nn.Module,
    pieces: Sequence[Piece],
    tensors: Mapping[str, Tensor],
    where: Path | str,
    for_decoding: bool = False,
) -> None:
    """Assign published tensors to `module`, as `saving.assign` does.

    Raises `ArtifactError` listing missing, extra and misshapen tensors by published name.
    """
    saving.assign(module, dict(join_all(module, pieces, tensors, where)), where, for_decoding=for_decoding)


def join_all(
    module: torch.nn.Module,
    pieces: Sequence[Piece],
    tensors: Mapping[str, Tensor],
    where: Path | str,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of `module` with its name, from published tensors, one at a time. Raises `ArtifactError` as `load`."""
    ours = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    expected = {
        name: shape
        for piece in pieces
        for name, shape in zip(piece.theirs, piece.shapes(ours[piece.ours]), strict=True)
        if name
    }
    saving.check(expected, tensors, where)
    for piece in pieces:
        shapes = piece.shapes(ours[piece.ours])
        theirs = [
            tensors[name] if name else torch.zeros(shape) for name, shape in zip(piece.theirs, shapes, strict=True)
        ]
        yield piece.ours, piece.join(theirs, ours[piece.ours], dtype)


def published(module: torch.nn.Module, pieces: Sequence[Piece]) -> dict[str, Tensor]:
    """The weights of `module` under their published names."""
    state = module.state_dict()
    return {name: tensor for piece in pieces for name, tensor in piece.cut(state[piece.ours])}


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a model in the hub's layout, merged from its shards. Raises `ArtifactError` for names of a wrapped model."""
    tensors = {name: tensor for file in weight_files(directory) for name, tensor in saving.read_tensors(file).items()}
    for prefix, wrapper in WRAPPERS.items():
        if any(name.startswith(prefix) for name in tensors):
            raise ArtifactError(f"{directory}: the names of its tensors begin with {prefix}, from {wrapper}")
    return tensors
