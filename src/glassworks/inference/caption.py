"""`glassworks caption`: captions for image files, optionally with attention maps for each word."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from glassworks.config.datasets import LocalImages
from glassworks.data.reading.images import normalise, resize, to_tensor
from glassworks.data.reading.pixels import EXTENSIONS, read_image
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.errors import ArtifactError, DataError, ResourceError
from glassworks.generation.decoding import caption
from glassworks.generation.settings import Decoding
from glassworks.inference.attention_maps import draw_attention, word_attention
from glassworks.inference.model_folders import find_model, find_tokenizer
from glassworks.models.captioner import KIND, Captioner
from glassworks.models.vision_language import KIND as SEEING

BATCH = 16
"""Images captioned at a time. Does not affect the captions."""


class Describer:
    """A captioner and its tokenizer."""

    def __init__(self, directory: Path, project: Path) -> None:
        config = find_model(directory, project)
        if config.get("model") == SEEING:
            raise ArtifactError(
                f"{directory}: this model answers questions about images; `glassworks ask {directory} IMAGE QUESTION` asks it"
            )
        if config.get("model") != KIND:
            raise ArtifactError(
                f"{directory}: this model writes text and sees no images; `glassworks generate {directory}` asks it"
            )
        self.tokenizer = TextTokenizer(find_tokenizer(directory))
        self.model = Captioner.load(directory).eval()
        check_vocabulary(self.tokenizer, self.model.vocabulary, directory)

    def fit(self, image: Image.Image) -> Tensor:
        """An RGB image in the input size of the model, uint8 [3, I, I]."""
        return resize(to_tensor(image), self.model.config.vision.image_size)

    def captions(self, images: list[Tensor], settings: Decoding) -> list[list[int]]:
        """The token ids of the caption of each image, uint8 [3, I, I]."""
        pixels = normalise(torch.stack(images))
        return caption(self.model, pixels, settings, self.tokenizer.bos, self.tokenizer.ends)

    def describe(self, files: list[Path], settings: Decoding) -> Iterator[tuple[Path, Tensor, list[int]]]:
        """For each file: the path, the image (uint8 [3, I, I]) and the token ids of the caption."""
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            images = [self.fit(_decoded(file, _content(file))) for file in part]
            yield from zip(part, images, self.captions(images, settings), strict=True)


def run(
    directory: Path,
    paths: list[Path],
    settings: Decoding,
    attention: Path | None,
    as_json: bool,
    show: Callable[[str], None],
    project: Path,
) -> None:
    """Pass a line or a JSON object for each image to `show`. With `attention`, also write a figure for each image to that folder."""
    files = find_images(paths)
    describer = Describer(directory, project)
    if attention is not None:
        try:
            attention.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{attention}: cannot be made a folder for figures ({error.strerror})") from None
    figures = _figure_names(files)
    for file, image, ids in describer.describe(files, settings):
        text = describer.tokenizer.decode(ids)
        if as_json:
            show(json.dumps({"file": str(file), "caption": text}, ensure_ascii=False) + "\n")
        else:
            show(f"{file}: {' '.join(text.split())}\n")
        if attention is not None:
            words = word_attention(describer.model, image, ids, describer.tokenizer)
            draw_attention(attention / figures[file], file.name, image, text, words)


def find_images(paths: list[Path]) -> list[Path]:
    """The image files in `paths`, without duplicates; folders are expanded. Raises `DataError` if a path does not exist or a folder has no images."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            images = sorted(file for file in path.iterdir() if file.suffix.lower().removeprefix(".") in EXTENSIONS)
            if not images:
                raise DataError(f"{path}: no images in this folder ({', '.join(EXTENSIONS)})")
            found += images
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file")
    return list(dict.fromkeys(found))


def read_file(file: Path) -> bytes:
    """The bytes of an image file. Raises `DataError` if it is not a readable image."""
    content = _content(file)
    _decoded(file, content)
    return content


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: not readable ({error.strerror})") from None


def _decoded(file: Path, content: bytes) -> Image.Image:
    return read_image(content, str(file), LocalImages.model_fields["max_pixels"].default)


def _figure_names(files: list[Path]) -> dict[Path, str]:
    """A unique figure name for each image: NAME.png, or NAME-2.png and so on for duplicate names."""
    names: dict[Path, str] = {}
    for file in files:
        name, number = f"{file.stem}.png", 1
        while name in names.values():
            number += 1
            name = f"{file.stem}-{number}.png"
        names[file] = name
    return names
