"""`glassworks ask`: answers to a question about images or clips, by a vision-language model and the tower that it was trained with."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from glassworks.config.encoder import ImageEncoder
from glassworks.config.packing import Frames, Images
from glassworks.data.animations import animation_size
from glassworks.data.messages import Medium, Message, Size, as_json
from glassworks.data.points import parse_points
from glassworks.data.reading.clips import clip_member, sizes_of
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.pixels import read_image
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.data.reading.tokens import prompt_of
from glassworks.encoders.protocol import Reading, stack
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
"""The name of an image in its message; its content decides on the format."""


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
        clips, tokens = None, self.model.connector.frame_tokens
        if tokens is not None and isinstance(self.tower.settings, ImageEncoder):
            clips = self.tower.settings.clips
        frames = None if clips is None or tokens is None else Frames(clips=clips, tokens=tokens)
        self.images = Images(tokens=self.model.connector.tokens, frames=frames)

    def sample(self, content: bytes, name: str, where: str) -> Sample:
        """A readable image, or an animation as a clip for a model that reads clips."""
        size = animation_size(content) if self.images.frames else None
        sizes: dict[str, Size] = {} if size is None else {MEMBER: size}
        members = {MEMBER: content, "json": json.dumps({"sizes": as_json(sizes)}).encode()}
        return Sample(name, {member: memoryview(found) for member, found in members.items()}, where)

    def of_file(self, file: Path) -> Sample:
        """The sample of an image file. Raises `DataError` if it is not readable."""
        return self.sample(read_file(file), file.name, str(file))

    def prompt(self, question: str, sample: Sample) -> list[int]:
        """The tokens of a question about an image, as in a message tree: the image and the question are messages of their own."""
        return self.tokens([self.medium(sample), Message(role="user", content=question)], sample)

    def medium(self, sample: Sample) -> Message:
        """The message with the image or clip, as in message trees."""
        kind = "image" if clip_member(sizes_of(sample)) is None else "video"
        return Message(role="user", content=[Medium(type=kind, media=MEMBER)])

    def tokens(self, messages: Sequence[Message], sample: Sample) -> list[int]:
        """The tokens of messages that an answer follows."""
        return prompt_of(messages, self.tokenizer, sample.where, self.images, sizes_of(sample))

    def features(self, samples: list[Sample]) -> dict[str, Any]:
        """The arguments `features` and `frames` of `answer`, [N, P, C] each. Raises `DataError` if a file is not a readable image."""
        readings: list[Reading] = []
        frames: list[Reading] = []
        for sample in samples:
            clip = self.tower.read_clip(sample) if self.images.frames else None
            if clip is not None:
                frames += clip
            elif (reading := self.tower.read(sample)) is not None:
                readings.append(reading)
        return {
            name: self.tower.features(stack(found))["features"] if found else None
            for name, found in (("features", readings), ("frames", frames))
        }

    def answers(self, files: list[Path], question: str, settings: Decoding) -> Iterator[tuple[Path, str]]:
        """The answer for each image."""
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            samples = [self.of_file(file) for file in part]
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
    """A conversation about one image. Its features are computed once."""

    def __init__(self, directory: Path, paths: list[Path], settings: Decoding, project: Path) -> None:
        """Raises `ConfigError` for several images: a model reads one image a sample."""
        files = find_images(paths)
        if len(files) > 1:
            raise ConfigError(
                f"--chat: {len(files)} images, and a model is trained on samples with one; talk about one image"
            )
        self.answerer, self.file = Answerer(directory, project), files[0]
        self.sample = self.answerer.of_file(files[0])
        self.seen = self.answerer.features([self.sample])
        first = self.answerer.medium(self.sample)
        super().__init__(self.answerer.model, self.answerer.tokenizer, settings, [first], file=str(files[0]))

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
) -> None:
    """Ask the question about each image. The answer for a single image is streamed, several are a line each. `draw` is a file for the points of an answer."""
    files = find_images(paths)
    if draw is not None and len(files) > 1:
        raise ConfigError(f"--draw: {len(files)} images would be drawn into one file; ask about one image")
    answerer = Answerer(directory, project)
    found = ""
    if len(files) == 1 and not as_json:
        pieces = answerer.pieces(answerer.of_file(files[0]), question, settings)
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
