"""The panels of the page. A panel holds a model and answers the forms that the page sends."""

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from glassworks.artifacts.model_files import CONFIG
from glassworks.data.messages import parse_messages
from glassworks.data.reading.sounds import sound_extension
from glassworks.demo import examples
from glassworks.demo.examples import Example
from glassworks.demo.uploads import WHERE, Form, check_sound, uploaded_image
from glassworks.demo.worker import Events
from glassworks.errors import ArtifactError, ConfigError, DataError
from glassworks.evaluation.questions.drawing import draw_points
from glassworks.generation.settings import Decoding
from glassworks.inference.ask import Answerer, points_of
from glassworks.inference.attention_maps import overlaid, word_attention
from glassworks.inference.caption import Describer
from glassworks.inference.chat import Conversation
from glassworks.inference.generate import Writer
from glassworks.inference.index import find_index, indexed
from glassworks.inference.model_folders import decoding, find_model, published_decoding
from glassworks.inference.retrieve import (
    WORDS,
    Query,
    Searcher,
    cards,
    image_query,
    remarks,
    sound_query,
    text_query,
)
from glassworks.inference.transcribe import Transcriber
from glassworks.models.alignment import KIND as ALIGNED
from glassworks.models.captioner import KIND as CAPTIONER
from glassworks.models.fused_decoder import KIND as FUSED
from glassworks.models.pretrained.published_adapters import is_published
from glassworks.models.recursive import KIND as RECURSIVE
from glassworks.models.vision_language import KIND as SEEING
from glassworks.report.media import data_uri

SIDE = 480
"""Longest side in pixels of a picture in an answer."""
NEAREST = 4
"""Items of each modality that a search shows."""
BEAMS, ANSWER_TOKENS = 3, 200
"""As `glassworks caption` and `glassworks ask` by default."""


class Panel:
    """A model on the page."""

    kind: ClassVar[str]
    """The form of the panel in the template."""
    title: ClassVar[str]
    accepts: tuple[str, ...] = ()
    """The modalities of the files that the panel reads."""
    clips = False
    """Whether the panel reads an animation as a clip."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.name = directory, directory.resolve().name
        self.examples: list[Example] = []

    def answer(self, form: Form) -> Events:
        """The answer to a form as events: `text` is a piece of it, `note` a remark, `error` ends it. Raises `UserError`s."""
        raise NotImplementedError

    def content(self, form: Form) -> bytes:
        """The file of a form, or of the example that it names. Raises `DataError` without one."""
        if form.file is not None:
            return form.file
        number = form.texts.get("example", "")
        if len(number) < 4 and number.isdecimal() and int(number) < len(self.examples):
            content = self.examples[int(number)].content
            if content is not None:
                return content
        raise DataError(f"choose {' or '.join('an image' if one == 'image' else 'a sound' for one in self.accepts)}")

    def query(self, form: Form) -> Query:
        """The file of a form as a query: a sound, if its content is one, or else an image. Raises `DataError`."""
        content = self.content(form)
        heard = sound_extension(content) is not None or "image" not in self.accepts
        if heard:
            check_sound(content)
        else:
            uploaded_image(content)
        if ("audio" if heard else "image") not in self.accepts:
            raise DataError(f"{WHERE}: this model reads no {'sounds' if heard else 'images'}")
        return sound_query(content, WHERE) if heard else image_query(content, WHERE)


class Caption(Panel):
    """A caption, and a map for each of its words."""

    kind, title, accepts = "caption", "Caption an image", ("image",)

    def __init__(self, directory: Path, project: Path) -> None:
        super().__init__(directory)
        self.describer = Describer(directory, project)
        self.examples = examples.media_examples(examples.samples_of(directory), self.accepts)

    def answer(self, form: Form) -> Events:
        describer = self.describer
        image = describer.fit(uploaded_image(self.content(form)))
        [ids] = describer.captions([image], Decoding(beams=BEAMS))
        yield {"text": describer.tokenizer.decode(ids).strip()}
        try:
            words = word_attention(describer.model, image, ids, describer.tokenizer)
        except ConfigError:
            yield {"note": "the image tokens of this model form no square, so there are no maps"}
            return
        plain = image.permute(1, 2, 0).numpy()
        maps = [
            {"word": word.text, "picture": _picture(one)}
            for word, one in zip(words, overlaid(image, words), strict=True)
        ]
        yield {"maps": maps, "picture": _picture(plain)}


class Ask(Panel):
    """A question about an image or a clip, and the points of the answer."""

    kind, title, accepts = "ask", "Ask about an image", ("image",)

    def __init__(self, directory: Path, project: Path) -> None:
        super().__init__(directory)
        self.answerer = Answerer(directory, project)
        self.clips = self.answerer.images.frames is not None
        self.examples = examples.question_examples(examples.samples_of(directory))

    def answer(self, form: Form) -> Events:
        question = form.text("question", "write a question")
        content = self.content(form)
        image = uploaded_image(content)
        sample, found = self.answerer.sample([content], WHERE, WHERE), ""
        for piece in self.answerer.pieces(sample, question, Decoding(max_new_tokens=ANSWER_TOKENS)):
            found += piece
            yield {"text": piece}
        if points := points_of(found):
            image.thumbnail((SIDE, SIDE))
            if max(image.size) < SIDE:
                image = image.resize(_enlarged(image.size))
            yield {"points": points, "picture": data_uri("image/png", draw_points(image, points))}


class Retrieve(Panel):
    """The nearest items of an index."""

    kind, title = "retrieve", "Search"

    def __init__(self, directory: Path, project: Path) -> None:
        """Raises `ArtifactError` for a model without an index."""
        super().__init__(directory)
        names = indexed(directory) or [find_index(directory, None).name]
        self.searchers = {name: Searcher(directory, name, project) for name in names}
        first = self.searchers[names[0]]
        self.modalities = tuple(first.model.towers)
        self.accepts = tuple(name for name in ("image", "audio") if name in self.modalities)
        for searcher in self.searchers.values():
            searcher.towers = first.towers
        for name in self.modalities:
            first.tower(name)
        self.samples = {name: searcher.index.samples() for name, searcher in self.searchers.items()}
        self.examples = self._examples(first)

    def _examples(self, searcher: Searcher) -> list[Example]:
        """A text, an image and a sound of the held-out split."""
        items = [item for item in searcher.index.items if item.split in examples.HELD_OUT]
        found = []
        for place, modality in enumerate(self.modalities):
            for item in items[place * len(items) // len(self.modalities) :][:2]:
                label = item.texts[0] if item.texts else item.key
                sample = self.samples[searcher.index.dataset][item.split][item.row]
                if modality != "text":
                    found.append(examples.of_medium(sample, modality, label))
                elif item.texts:
                    found.append(Example(label, {"text": label}))
        return [example for example in found if example]

    def answer(self, form: Form) -> Events:
        dataset = form.texts.get("dataset") or next(iter(self.searchers))
        if dataset not in self.searchers:
            raise DataError(f"no index of this data set; there are {', '.join(self.searchers)}")
        searcher, written = self.searchers[dataset], form.texts.get("text", "").strip()
        if form.file is None and not form.texts.get("example"):
            text = form.text(
                "text", f"{'write a text' if 'text' in self.modalities else 'choose a file'} to search with"
            )
            if "text" not in self.modalities:
                raise DataError("this model reads no texts")
            query = text_query(text, "the text")
        else:
            query = self.query(form)
            if written:
                yield {"note": "the search is by the file; clear it to search by the text"}
        for remark in remarks(query, searcher.tower(query.modality)):
            yield {"note": remark}
        found = searcher.search(query, searcher.width(None), NEAREST)
        yield {
            "groups": [
                {"word": WORDS.get(name, name), "cards": cards(self.samples[dataset], some)}
                for name, some in found.items()
            ]
        }


class Transcribe(Panel):
    """The text of a sound or an image."""

    kind, title = "transcribe", "Transcribe"

    def __init__(self, directory: Path, project: Path) -> None:
        super().__init__(directory)
        self.transcriber = Transcriber(directory, project)
        self.accepts = tuple(name for name in ("audio", "image") if name in self.transcriber.model.towers)
        self.examples = examples.media_examples(examples.samples_of(directory)[:2], self.accepts)

    def answer(self, form: Form) -> Events:
        query = self.query(form)
        for remark in remarks(query, self.transcriber.tower(query)):
            yield {"note": remark}
        yield {"text": self.transcriber.transcribe(query, Decoding()).strip()}


class Writing(Panel):
    """A panel of a language model, with the settings of its decoding."""

    defaults: ClassVar[dict[str, Any]]

    def settings(self, form: Form) -> Decoding:
        """The settings in a form, and those that the model publishes. Raises `ConfigError` and `DataError`."""
        given: dict[str, Any] = {}
        for name, read in (("temperature", float), ("max_new_tokens", int), ("seed", int)):
            text = form.texts.get(name, "").strip()
            try:
                given[name] = read(text) if text else self.defaults[name]
            except ValueError:
                raise DataError(f"{name}: {text[:20]!r} is no number") from None
        published, _ = published_decoding(self.directory, given)
        return decoding(**given, **published)


class Chat(Writing):
    """A conversation, whose earlier turns the page sends."""

    kind, title = "chat", "Talk"
    defaults: ClassVar[dict[str, Any]] = {"temperature": 0.0, "max_new_tokens": 256, "seed": 0}

    def __init__(self, writer: Writer, project: Path) -> None:
        super().__init__(writer.directory)
        self.conversation = Conversation(writer.directory, Decoding(), None, project, opened=writer.opened)
        self.conversation.renewal = "begin a new one"
        self.examples = examples.message_examples(examples.samples_of(writer.directory))

    def answer(self, form: Form) -> Events:
        conversation, text = self.conversation, form.text("text", "write a message")
        try:
            history = parse_messages(json.loads(form.texts.get("messages", "[]")), "the earlier turns")
        except (ValueError, RecursionError):
            raise DataError("the earlier turns are not JSON") from None
        conversation.settings, conversation.messages = self.settings(form), list(history)
        for piece in conversation.answer(text):
            yield {"text": piece}
        reply = conversation.reply
        if reply and reply.ended == "length":
            yield {"note": f"cut after {reply.tokens:,} tokens"}


class Generate(Writing):
    """A text that continues another one."""

    kind, title = "generate", "Continue a text"
    defaults: ClassVar[dict[str, Any]] = {"temperature": 0.8, "max_new_tokens": 100, "seed": 0}

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer.directory)
        self.writer = writer
        self.examples = examples.beginnings(examples.samples_of(writer.directory))

    def answer(self, form: Form) -> Events:
        text = form.texts.get("text", "")
        if text:
            form.text("text", "write a word")
        for piece in self.writer.pieces(text, self.settings(form)):
            yield {"text": piece}


def open_panels(directory: Path, project: Path) -> list[Panel]:
    """The panels of a model. Raises `ArtifactError` for a folder without a model, and for a model that no panel shows."""
    config = find_model(directory, project) if (directory / CONFIG).is_file() or not directory.is_dir() else {}
    kind = config.get("model")
    if kind == RECURSIVE:
        raise ArtifactError(f"{directory}: this model solves puzzles; the page has no panel for it")
    for other, panel in ((CAPTIONER, Caption), (SEEING, Ask), (ALIGNED, Retrieve), (FUSED, Transcribe)):
        if kind == other:
            return [panel(directory, project)]
    if is_published(directory):
        raise ArtifactError(
            f"{directory}: an adapter that peft wrote; merge it with `glassworks export {directory} FOLDER --base BASE` and name FOLDER"
        )
    writer = Writer(directory, project)
    return [*([Chat(writer, project)] if writer.opened.template else []), Generate(writer)]


def _enlarged(size: tuple[int, int]) -> tuple[int, int]:
    factor = SIDE / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _picture(pixels: np.ndarray) -> str:
    """uint8 [H, W, 3] as a JPEG of a readable size, in a data URI."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.resize(_enlarged(image.size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return data_uri("image/jpeg", file.getvalue())
