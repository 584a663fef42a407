"""Features by a frozen encoder whose bits depend on the sample alone, in a stage or inside a training step.

Kernels choose their order of additions by the shape of a batch, so the same image alone and among 64 may differ in the last bits. Every batch here has the
same shape: `batch_size` samples, padded by repeating the last one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from glassworks.artifacts.digests import digest_json
from glassworks.artifacts.manifest import read_manifest
from glassworks.config import registry
from glassworks.config.encoder import Encoder as Settings
from glassworks.config.encoder import ImageEncoder
from glassworks.config.tiles import Crops
from glassworks.data.messages import Medium, Size
from glassworks.data.reading.clips import clip_member, frames_of, sizes_of
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.images import crops_of, decode_image, to_tensor
from glassworks.data.reading.pictures import Kind, image_tiling, media_of
from glassworks.encoders.protocol import Encoder, FrameEncoder, Reading, has_modality, load_encoder, stack
from glassworks.errors import ConfigError, DataError


class Picture(NamedTuple):
    """A decoded picture of a sample."""

    kind: Kind
    reading: Reading


class Tower:
    """A frozen encoder with its pooling and its dtype."""

    def __init__(self, encoder: Encoder, settings: Settings, name: str) -> None:
        """`name` is that of the encoder in params.yaml."""
        self.encoder, self.settings, self.name = encoder, settings, name
        self.width = encoder.width
        self.dtype: torch.dtype = getattr(torch, settings.dtype)
        self._checked = settings.batch_size == 1
        self.crops = self._crops()
        """The crops of an image; None for whole images only."""

    def _crops(self) -> Crops | None:
        """Raises `ConfigError` for crops of another size than that of the encoder, and for those that cannot be cut."""
        settings = self.settings
        if not isinstance(settings, ImageEncoder) or settings.tiles is None or settings.crop_side is None:
            return None
        where, side = f"encoders.{self.name}.tiles", cast(FrameEncoder, self.encoder).image_size
        if settings.crop_side != side:
            raise ConfigError(f"{where}.side: the images of this encoder have {side} pixels, not {settings.crop_side}")
        grid = math.isqrt(self.encoder.tokens)
        crops = Crops(most=settings.tiles.most, margin=settings.tiles.margin, side=side, grid=grid)
        if crops.fault:
            raise ConfigError(f"{where}: {crops.fault}")
        return crops

    def read(self, sample: Sample) -> Reading | None:
        """The decoded sample; None if it lacks the modality. Raises `DataError` for a file that does not decode."""
        return self.encoder.read(sample) if has_modality(sample, self.encoder.modality) else None

    def pictures(self, sample: Sample) -> list[Picture]:
        """The decoded pictures of a sample in the order of its tokens: each image of its messages and then its crops, and each frame of a clip.

        A sample without images in its messages has at most one, as `read` finds it. Raises `DataError` for media that do not decode or that this encoder
        does not read, and for an image whose size is not that of its record where it is cut into crops.
        """
        settings = self.settings
        if not isinstance(settings, ImageEncoder) or settings.pooling != "none":
            return self._one(sample)
        media, sizes, encoder = media_of(sample), sizes_of(sample), cast(FrameEncoder, self.encoder)
        if not media and settings.clips is not None and (member := clip_member(sizes)) is not None:
            media = [Medium(type="video", media=member)]
        if not media or (len(media) == 1 and (settings.clips if media[0].type == "video" else self.crops) is None):
            return self._one(sample)
        found: list[Picture] = []
        for medium in media:
            if medium.type == "image":
                found += self._image(sample, medium.media, sizes.get(medium.media))
            elif settings.clips is not None:
                frames = frames_of(sample, settings.clips, medium.media) or []
                found += [Picture("frame", encoder.read_frame(to_tensor(frame))) for frame in frames]
            else:
                raise DataError(
                    f"{sample.where}: holds the video {medium.media!r} beside others, and the encoder {self.name!r} has no clips"
                )
        return found

    def _image(self, sample: Sample, member: str, size: Size | None) -> list[Picture]:
        """An image and its crops. `size` is that of its record."""
        where, encoder = sample.where, cast(FrameEncoder, self.encoder)
        if member not in sample.members:
            raise DataError(f"{where}: no image {member!r} ({', '.join(sorted(sample.members))})")
        image = decode_image(sample.members[member], where)
        whole = Picture("image", encoder.read_frame(image))
        if self.crops is None:
            return [whole]
        tiling, (height, width) = image_tiling(size, self.crops, member, where), image.shape[1:]
        if size is not None and (size.width, size.height) != (width, height):
            raise DataError(
                f"{where}: the image {member!r} has {width} x {height} pixels, and its record says {size.width} x {size.height}"
            )
        return [whole, *(Picture("tile", encoder.read_frame(crop)) for crop in crops_of(image, self.crops, tiling))]

    def _one(self, sample: Sample) -> list[Picture]:
        reading = self.read(sample)
        return [] if reading is None else [Picture("image", reading)]

    def blank(self) -> Tensor:
        """Features [tokens, C] of an image that is grey all over, by an encoder of images without pooling."""
        encoder = cast(FrameEncoder, self.encoder)
        grey = torch.full((3, encoder.image_size, encoder.image_size), 128, dtype=torch.uint8)
        return self.features(stack([encoder.read_frame(grey)]))["features"][0]

    def features_of(self, readings: Sequence[Reading | None], device: str | torch.device = "cpu") -> Reading:
        """Features of N readings as those of `features`, with `present` [N], False at missing ones, whose features are 0."""
        found = [reading for reading in readings if reading is not None]
        present = torch.tensor([reading is not None for reading in readings], device=device)
        stacked = {name: tensor.to(device) for name, tensor in stack(found).items()} if found else {}
        return {**self.spread(stacked, present), "present": present}

    def spread(self, readings: Mapping[str, Tensor], present: Tensor) -> Reading:
        """Features of the M samples at which `present` [N] is True, from their stacked readings, as features of N samples."""
        if readings:
            known = self.features(readings)
            if len(next(iter(known.values()))) == len(present):
                return known
        else:
            shape = (0, self.width) if self.settings.pooling == "mean" else (0, self.encoder.tokens, self.width)
            known = {"features": torch.zeros(shape, dtype=self.dtype, device=present.device)}
            if self.settings.pooling == "none":
                known["mask"] = torch.zeros(shape[:2], dtype=torch.bool, device=present.device)
        return {
            name: tensor.new_zeros((len(present), *tensor.shape[1:])).masked_scatter(
                present.view(-1, *[1] * (tensor.dim() - 1)), tensor
            )
            for name, tensor in known.items()
        }

    @torch.no_grad()
    def features(self, readings: Mapping[str, Tensor]) -> Reading:
        """Features of N stacked readings: `features` [N, C], or [N, tokens, C] and `mask` [N, tokens] without pooling.

        Raises `ConfigError` if the features of a sample depend on its position in a batch, or on its neighbours, on this device.
        """
        first = next(iter(readings.values()))
        count, size = len(first), self.settings.batch_size
        self.encoder.to(first.device)
        with torch.autocast(first.device.type, enabled=False):
            batches = [
                {name: _padded(tensor[start : start + size], size) for name, tensor in readings.items()}
                for start in range(0, count, size)
            ]
            self._check(batches[0])
            parts = [self._encode(batch) for batch in batches]
            return {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}

    def _encode(self, batch: Reading) -> Reading:
        values, mask = self.encoder.encode(batch)
        if self.settings.pooling == "none":
            return {"features": values.to(self.dtype), "mask": mask}
        weights = mask[..., None].to(values.dtype)
        mean = (values * weights).sum(1) / weights.sum(1).clamp(min=1)
        return {"features": mean.to(self.dtype)}

    def _check(self, batch: Reading) -> None:
        """Encode one batch also shifted by a place and with another neighbour, once."""
        if self._checked:
            return
        self._checked = True
        shifted = self._encode({name: _shifted(tensor) for name, tensor in batch.items()})
        for name, tensor in self._encode(batch).items():
            if not torch.equal(_shifted(tensor), shifted[name]):
                raise ConfigError(
                    f"encoders.{self.name}.batch_size: on this device the features of a sample depend on the rest of "
                    f"its batch of {self.settings.batch_size}; set it to 1"
                )


def trained_tower(described: Mapping[str, Any], weights: Path) -> Tower:
    """The tower that a model was trained with, as its config.json describes it, with the weights in an artefact."""
    settings = {**described["settings"], "weights": weights.name}
    parsed = registry.settings_class("encoders", settings["encoder"], Settings).model_validate_json(
        json.dumps(settings)
    )
    return load_tower(str(described["encoder"]), parsed, weights)


def load_tower(name: str, settings: Settings, weights: Path) -> Tower:
    """The tower of an entry under `encoders`, with the weights in an artefact."""
    return Tower(load_encoder(settings, weights), settings, name)


def identity(settings: Settings, weights: Path) -> dict[str, Any]:
    """The settings of a tower and the digest of its weights: equal for equal features of a sample on equal devices."""
    files = digest_json(read_manifest(weights).files)
    return {"settings": settings.model_dump(mode="json", exclude={"jobs", "weights"}), "weights": files}


def _padded(tensor: Tensor, size: int) -> Tensor:
    """[n, …] to [size, …] in row-major order: the memory layout of a batch selects kernels, too."""
    missing = size - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]).contiguous()


def _shifted(batch: Tensor) -> Tensor:
    """[B, …] with the last row replaced by a second copy of the first, before it."""
    return torch.cat([batch[:1], batch[:-1]])
