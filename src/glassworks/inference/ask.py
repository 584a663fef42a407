"""`glassworks ask`: answers to a question about images, by a vision-language model and the tower that it was trained with."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from torch import Tensor

from glassworks.config.packing import Images
from glassworks.data.messages import Medium, Message
from glassworks.data.points import parse_points
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.pixels import read_image
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.data.reading.tokens import prompt_of
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
"""The name of an image in its message; its content decides on the format."""
IMAGE = Message(role="user", content=[Medium(type="image", media=MEMBER)])
"""The message with the image, as in message trees."""


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

    def prompt(self, question: str, where: str) -> list[int]:
        """The tokens of a question about an image, as in a message tree: the image and the question are messages of their own."""
        return self.tokens([IMAGE, Message(role="user", content=question)], where)

    def tokens(self, messages: Sequence[Message], where: str) -> list[int]:
        """The tokens of messages that an answer follows."""
        return prompt_of(messages, self.tokenizer, where, Images(tokens=self.model.connector.tokens).ids)

    def features(self, files: list[Path]) -> Tensor:
        """Features [N, P, C] of image files. Raises `DataError` if one is not a readable image."""
        readings = [
            self.tower.read(Sample(file.stem, {MEMBER: memoryview(read_file(file))}, str(file))) for file in files
        ]
        return self.tower.features(stack(readings))["features"]

    def answers(self, files: list[Path], question: str, settings: Decoding) -> Iterator[tuple[Path, str]]:
        """The answer for each image."""
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            prompts = [self.prompt(question, str(file)) for file in part]
            keys = [f"{file.name}: {question}" for file in part]
            found = answer(self.model, prompts, self.features(part), settings, self.tokenizer.ends, keys)
            yield from zip(part, map(self.tokenizer.decode, found), strict=True)

    def pieces(self, file: Path, question: str, settings: Decoding) -> Iterator[str]:
        """The answer for one image, streamed in pieces of text."""
        text = TextStream(self.tokenizer.text, self.tokenizer.settled)
        prompts, keys = [self.prompt(question, str(file))], [f"{file.name}: {question}"]
        for step in stream_answers(self.model, prompts, self.features([file]), settings, self.tokenizer.ends, keys):
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
        self.features = self.answerer.features(files)
        super().__init__(self.answerer.model, self.answerer.tokenizer, settings, [IMAGE], file=str(files[0]))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.answerer.tokens(messages, str(self.file))

    def steps(self, prompt: list[int]) -> Iterator[list[tuple[int, int]]]:
        return stream_answers(self.model, [prompt], self.features, self.settings, self.tokenizer.ends)


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
        pieces = answerer.pieces(files[0], question, settings)
        first = next(pieces)  # an image that does not decode raises here, before any output
        for piece in chain([first], pieces):
            show(piece)
            found += piece
        show("\n")
    else:
        for file, found in answerer.answers(files, question, settings):
            if as_json:
                row = {"file": str(file), "question": question, "answer": found, "points": _points(found)}
                show(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                show(f"{file}: {' '.join(found.split())}\n")
    if draw is not None:
        content = draw_points(read_image(read_file(files[0]), str(files[0])), _points(found))
        try:
            draw.write_bytes(content)
        except OSError as error:
            raise ResourceError(f"{draw}: cannot be written ({error.strerror})") from None


def _points(text: str) -> list[tuple[float, float]]:
    """The points of an answer; none if they lie outside the image."""
    try:
        return parse_points(text)
    except DataError:
        return []
