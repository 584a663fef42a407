"""Packed rows with the images and clips of their samples: stored features, or undecoded samples for a tower in the training step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from glassworks.config.packing import FRAME_START, IMAGE_START
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.features import REMEDY, FeatureRows
from glassworks.data.reading.packing import PackedRows, Row
from glassworks.data.reading.pictures import KINDS, Kind
from glassworks.data.reading.rows import Samples
from glassworks.errors import DataError

QUESTIONS = "questions"
"""The label of a record with a question for each branch of its message tree: kind, answer and truth."""


@dataclass(frozen=True)
class ImageRow(Row):
    """A row of packed documents with the images and clips among its tokens."""

    samples: Sequence[Sample] = ()
    """The undecoded sample of each document."""
    pictured: Sequence[int] = ()
    """The documents with images or clips."""
    features: Sequence[Tensor] = field(default=())
    """Stored features of each of them: [P, C] of one image, [F, P, C] of several images, crops and frames in the order of the tokens. Empty for a tower in
    the training step.
    """

    @property
    def kinds(self) -> list[list[str]]:
        """The kind of the question of each branch, for each document; empty for a document without questions."""
        return [[str(one.get("kind", "")) for one in questions_of(sample)] for sample in self.samples]


class ImageRows:
    """The rows of a plan with their images and clips (`Rows[ImageRow]`). `features` is None for a tower in the training step, and for texts only."""

    def __init__(self, rows: PackedRows, features: FeatureRows | None) -> None:
        self.rows, self.features, self.shard_sizes = rows, features, rows.shard_sizes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ImageRow:
        row, numbers = self.rows[index], self.rows.samples(index)
        samples = [self.dataset[number] for number in numbers]
        pictured = np.unique(row.documents[(row.inputs == IMAGE_START) | (row.inputs == FRAME_START)]).tolist()
        features = [] if self.features is None else [self._features(numbers[one], samples[one]) for one in pictured]
        return ImageRow(**vars(row), samples=samples, pictured=pictured, features=features)

    @property
    def dataset(self) -> Samples:
        """The samples of the split."""
        return self.rows.dataset

    def _features(self, number: int, sample: Sample) -> Tensor:
        return features_of(self.features, number, sample)


def features_of(features: FeatureRows | None, number: int, sample: Sample) -> Tensor:
    """The stored features of a sample: [P, C] of one image, [F, P, C] of several pictures. Raises `DataError` where the features are those of another sample."""
    assert features is not None
    key, tensors = features[number]
    if key != sample.key:
        raise DataError(
            f"{features.table.directory}: row {number} holds the sample {key!r}, not {sample.key!r}; {REMEDY}"
        )
    return tensors["features"]


def by_kind(features: Sequence[Tensor], kinds: Sequence[Kind]) -> Mapping[Kind, Tensor | None]:
    """Features [N, P, C] of all pictures of each kind, None without any, from those of samples. `kinds` are those of their pictures, by the tokens.

    Raises `DataError` where their numbers differ.
    """
    rows = [row for one in features for row in (one if one.dim() == 3 else one[None])]
    if len(rows) != len(kinds):
        raise DataError(
            f"the tokens have {len(kinds):,} images, crops and frames, but the features {len(rows):,}; make the features and pack the data again"
        )
    pairs = list(zip(rows, kinds, strict=True))
    found = {name: [row for row, kind in pairs if kind == name] for name in KINDS}
    return {name: torch.stack(some) if some else None for name, some in found.items()}


def questions_of(sample: Sample) -> list[dict[str, object]]:
    """The questions in the labels of a sample, one for each branch; empty without any. Raises `DataError`."""
    found = (sample.json().get("labels") or {}).get(QUESTIONS) or [] if "json" in sample.members else []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(f"{sample.where}: labels.{QUESTIONS}: expected a list with an object for each branch")
    return found


def answer_weights(row: ImageRow, roots: bool, kinds: dict[str, float]) -> np.ndarray:
    """float32 [tokens]: the weight of each target of a row.

    With `roots`, a token weighs 2 / sqrt(n) in an answer of n tokens, and 1 / sqrt(m) in a tree of m branches (Molmo). A kind of question in `kinds` has
    this weight instead. All are multiplied by the weights of the messages.
    """
    base = np.ones(len(row.inputs), np.float32) if row.weights is None else row.weights
    if not roots and not kinds:
        return base
    branches = np.zeros_like(row.documents) if row.branches is None else row.branches
    stride = int(branches.max(initial=0)) + 1
    segments, which = np.unique(row.documents * stride + branches, return_inverse=True)
    factors = np.ones(len(segments))
    if roots:
        answered = np.bincount(which, base > 0)
        most = np.zeros(len(row.samples), np.int64)
        np.maximum.at(most, row.documents, branches)
        factors = 2 / np.sqrt(np.maximum(answered, 1) * np.maximum(most, 1)[segments // stride])
    if kinds:
        named = row.kinds
        for place, (document, branch) in enumerate(zip(segments // stride, segments % stride, strict=True)):
            if (
                branch
                and branch <= len(named[document])
                and (weight := kinds.get(named[document][branch - 1])) is not None
            ):
                factors[place] = weight
    weights: np.ndarray = (base * factors[which]).astype(np.float32)
    return weights
