"""`glassworks ask`: answers to a question about images or clips, one by one or together, by a vision-language model and the tower that it was trained with."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from glassworks.config.encoder import ImageEncoder
from glassworks.data.animations import animation_size
from glassworks.data.messages import Medium, Message, Size, as_json
from glassworks.data.points import parse_points
from glassworks.data.reading.clips import sizes_of
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.pictures import pictures_of, windows_of
from glassworks.data.reading.pixels import read_image
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.data.reading.tokens import messages_of, prompt_of
from glassworks.encoders.protocol import stack
from glassworks.errors import ArtifactError, ConfigError, DataError, ResourceError
from glassworks.evaluation.questions.drawing import draw_points
from glassworks.generation.decoding import answer, stream_answers
from glassworks.generation.settings import Decoding
from glassworks.generation.text import TextStream
from glassworks.inference.caption import find_images, read_file
from glassworks.inference.chat import Dialogue
from glassworks.inference.model_folders import find_model, find_tokenizer, find_tower
from glassworks.models.vision_language import KIND, VisionLanguageModel

BATCH = 16
"""Images asked at a time. Does not affect the answers."""
MEMBER = "png"
"""The name of an image in its message, after its number if it is one of several; its content decides on the format."""


class Answerer:
    """A vision-language model, its tokenizer and its tower."""

    def __init__(self, directory: Path, project: Path) -> None:
        if find_model(directory, project).get("model") != KIND:
            raise ArtifactError(
                f"{directory}: this model answers no questions about images; the task vision_language trains those that do"
            )
        self.tokenizer = TextTokenizer(find_tokenizer(directory))
        self.model = VisionLanguageModel.load(directory).eval()
        check_vocabulary(self.tokenizer, self.model.vocabulary, directory)
        self.tower = find_tower(directory, self.model.tower)
        settings = self.tower.settings
        clips, tiles, side = None, None, None
        if isinstance(settings, ImageEncoder):
            clips, tiles, side = settings.clips, settings.tiles, settings.crop_side
        self.images = self.model.config.images(clips, tiles, side)

    def sample(self, contents: Sequence[bytes], name: str, where: str) -> Sample:
        """Readable images that are asked about together. An animation is a clip for a model that reads clips."""
        media: list[Medium] = []
        sizes: dict[str, Size] = {}
        for number, content in enumerate(contents):
            member = MEMBER if len(contents) == 1 else f"{number}.{MEMBER}"
            size = animation_size(content) if self.images.frames else None
            media.append(Medium(type="image" if size is None else "video", media=member))
            if size is None and self.images.tiles:
                width, height = read_image(content, where).size
                size = Size(kind="image", width=width, height=height)
            if size is not None:
                sizes[member] = size
        message = Message(role="user", content=[*media])
        members = {medium.media: memoryview(content) for medium, content in zip(media, contents, strict=True)}
        stored = json.dumps({"messages": as_json([message]), "sizes": as_json(sizes)})
        return Sample(name, {**members, "json": memoryview(stored.encode())}, where)

    def of_files(self, files: Sequence[Path]) -> Sample:
        """The sample of image files. Raises `DataError` if one is not readable."""
        names = " ".join(file.name for file in files)
        return self.sample([read_file(file) for file in files], names, ", ".join(map(str, files)))

    def prompt(self, question: str, sample: Sample) -> list[int]:
        """The tokens of a question about images, as in a message tree: the images and the question are messages of their own."""
        return self.tokens([*self.media(sample), Message(role="user", content=question)], sample)

    def media(self, sample: Sample) -> list[Message]:
        """The message with the images and clips, as in message trees."""
        return messages_of(sample)

    def tokens(self, messages: Sequence[Message], sample: Sample) -> list[int]:
        """The tokens of messages that an answer follows."""
        return prompt_of(messages, self.tokenizer, sample.where, self.images, sizes_of(sample))

    def features(self, samples: list[Sample]) -> dict[str, Any]:
        """The arguments `features`, `frames`, `tiles` and `tile_windows` of `answer`. Raises `DataError` if a file is not a readable image."""
        pictures = [picture for sample in samples for picture in self.tower.pictures(sample)]
        found: dict[str, Any] = {}
        for name, kind in (("features", "image"), ("frames", "frame"), ("tiles", "tile")):
            readings = [picture.reading for picture in pictures if picture.kind == kind]
            found[name] = self.tower.features(stack(readings))["features"] if readings else None
        if self.images.tiles is not None:
            ids = [number for sample in samples for number in self.tokens(self.media(sample), sample)]
            tilings = pictures_of(ids, self.images.tiles).tilings
            found["tile_windows"] = torch.from_numpy(windows_of(tilings, self.images.tiles))
        return found

    def answers(self, files: list[Path], question: str, settings: Decoding) -> Iterator[tuple[Path, str]]:
        """The answer for each image."""
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            samples = [self.of_files([file]) for file in part]
            prompts = [self.prompt(question, sample) for sample in samples]
            keys = [f"{sample.key}: {question}" for sample in samples]
            seen = self.features(samples)
            found = answer(self.model, prompts, settings=settings, ends=self.tokenizer.ends, keys=keys, **seen)
            yield from zip(part, map(self.tokenizer.decode, found), strict=True)

    def pieces(self, sample: Sample, question: str, settings: Decoding) -> Iterator[str]:
        """The answer for one image, streamed in pieces of text."""
        text = TextStream(self.tokenizer.text, self.tokenizer.settled)
        keys, prompts, seen = [f"{sample.key}: {question}"], [self.prompt(question, sample)], self.features([sample])
        for step in stream_answers(self.model, prompts, settings=settings, ends=self.tokenizer.ends, keys=keys, **seen):
            for _, token in step:
                yield text.add(token)
        yield text.end()


class ImageConversation(Dialogue):
    """A conversation about one image, or about several together. Their features are computed once."""

    def __init__(self, directory: Path, paths: list[Path], settings: Decoding, project: Path) -> None:
        files = find_images(paths)
        self.answerer = Answerer(directory, project)
        self.sample = self.answerer.of_files(files)
        self.seen = self.answerer.features([self.sample])
        first, names = self.answerer.media(self.sample), " ".join(map(str, files))
        super().__init__(self.answerer.model, self.answerer.tokenizer, settings, first, file=names)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.answerer.tokens(messages, self.sample)

    def steps(self, prompt: list[int]) -> Iterator[list[tuple[int, int]]]:
        return stream_answers(self.model, [prompt], settings=self.settings, ends=self.tokenizer.ends, **self.seen)


def run(
    directory: Path,
    paths: list[Path],
    question: str,
    settings: Decoding,
    draw: Path | None,
    as_json: bool,
    show: Callable[[str], None],
    project: Path,
    together: bool = False,
) -> None:
    """Ask the question about each image, or about all of them `together`.

    A single answer is streamed, several are a line each. `draw` is a file for the points of an answer.
    """
    files = find_images(paths)
    if draw is not None and len(files) > 1:
        raise ConfigError(f"--draw: {len(files)} images would be drawn into one file; ask about one image")
    answerer = Answerer(directory, project)
    found = ""
    if together and as_json:
        found = "".join(answerer.pieces(answerer.of_files(files), question, settings))
        row = {"files": list(map(str, files)), "question": question, "answer": found}
        show(json.dumps(row, ensure_ascii=False) + "\n")
    elif (together or len(files) == 1) and not as_json:
        pieces = answerer.pieces(answerer.of_files(files), question, settings)
        first = next(pieces)  # an image that does not decode raises here, before any output
        for piece in chain([first], pieces):
            show(piece)
            found += piece
        show("\n")
    else:
        for file, found in answerer.answers(files, question, settings):
            if as_json:
                row = {"file": str(file), "question": question, "answer": found, "points": points_of(found)}
                show(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                show(f"{file}: {' '.join(found.split())}\n")
    if draw is not None:
        content = draw_points(read_image(read_file(files[0]), str(files[0])), points_of(found))
        try:
            draw.write_bytes(content)
        except OSError as error:
            raise ResourceError(f"{draw}: cannot be written ({error.strerror})") from None


def points_of(text: str) -> list[tuple[float, float]]:
    """The points of an answer; none if they lie outside the image."""
    try:
        return parse_points(text)
    except DataError:
        return []
