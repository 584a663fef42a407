"""The texts and messages of a split as token ids, in arrays that all workers map into memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glassworks.config.packing import Images
from glassworks.data.messages import Medium, Message, Size, Text, parse_messages, parse_sizes
from glassworks.data.reading.arrays import load_arrays, save_arrays
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.clips import time_stamps
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.pictures import count_pictures, image_tiling
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import DataError

BATCH = 1000
"""Samples tokenized at a time."""
NO_SIZES: Mapping[str, Size] = {}


class Tokens(NamedTuple):
    """The documents of a split, one after another. A document is a text, a conversation or a message tree.

    A document has one segment, or, for a message tree, one for the context and one for each branch. In a segment every token but the first is the target
    of the token before it. The segment of a branch begins with a copy of the last token of the context, which predicts its first token.
    """

    ids: np.ndarray
    """int32 [tokens]: every text between BOS and EOS; the messages of a document after BOS, each with EOS."""
    ends: np.ndarray
    """int64 [documents]: the end of each document."""
    segments: np.ndarray | None = None
    """int64 [segments]: the end of each segment; None if every document has one."""
    weights: np.ndarray | None = None
    """float32 [tokens]: weight of the loss of each token as a target; None without messages, for 1."""
    texts: np.ndarray | None = None
    """bool [documents]: whether a document is a text, which may be split; None without messages."""

    def text(self, index: int) -> np.ndarray:
        """The ids of one document."""
        return self.ids[self.begin(index) : self.ends[index]]

    def begin(self, index: int) -> int:
        """The first token of a document."""
        return int(self.ends[index - 1]) if index else 0

    def bounds(self, index: int) -> list[int]:
        """The begin of a document and the ends of its segments."""
        begin, end = self.begin(index), int(self.ends[index])
        if self.segments is None:
            return [begin, end]
        first, last = np.searchsorted(self.segments, (begin, end), side="right")
        return [begin, *self.segments[first:last].tolist()]

    def inputs(self) -> np.ndarray:
        """int64 [documents]: the inputs of each document, one fewer than the tokens of each of its segments."""
        lengths = np.diff(self.ends, prepend=0)
        if self.segments is None:
            return lengths - 1
        return lengths - np.diff(np.searchsorted(self.segments, self.ends, side="right"), prepend=0)

    def images(self, images: Images | None = None) -> np.ndarray:
        """int64 [documents]: the images, crops and frames of each document, whose tokens `images` has written."""
        return count_pictures(self.ids, self.ends, images.tiles if images else None)

    def save(self, folder: Path) -> None:
        """Write one .npy file for each array."""
        save_arrays(folder, self._asdict())

    @classmethod
    def load(cls, folder: Path) -> "Tokens":
        """The tokens written by `save`, mapped into memory."""
        return cls(**load_arrays(folder))


class Document(NamedTuple):
    """The tokens of one sample."""

    segments: list[list[int]]
    weights: list[list[float]] | None = None
    """Weight of the loss of each token; None in a text, for 1."""


Chat = Callable[[Sequence[Message], dict[str, Any], str], Document]
"""Renders messages, given the JSON of their sample; the last argument names the sample in errors."""


def image_chat(tokenizer: TextTokenizer, images: Images | None) -> Chat | None:
    """Renders messages with images and clips for `tokenize`; None where none are read."""
    if images is None:
        return None

    def chat(messages: Sequence[Message], content: dict[str, Any], where: str) -> Document:
        return render(messages, tokenizer, where, images, parse_sizes(content.get("sizes") or {}, where))

    return chat


def tokenize(dataset: Samples, tokenizer: TextTokenizer, part: range | None = None, chat: Chat | None = None) -> Tokens:
    """The tokens of the samples of a split in order, or of a part of them. `chat` renders messages; None is `render`."""
    part = range(len(dataset)) if part is None else part
    pieces = []
    for start in range(0, len(part), BATCH):
        samples = [dataset[index] for index in part[start : start + BATCH]]
        messages = [messages_of(sample) for sample in samples]
        texts = [_text(sample) for sample, found in zip(samples, messages, strict=True) if not found]
        ids = iter(tokenizer.encode_all(texts) if texts else ())
        documents = [
            _document(sample, found, tokenizer, chat) if found else Document([next(ids)])
            for sample, found in zip(samples, messages, strict=True)
        ]
        pieces.append(_arrays(documents))
    return join(pieces)


def _document(sample: Sample, messages: Sequence[Message], tokenizer: TextTokenizer, chat: Chat | None) -> Document:
    if chat is None:
        return render(messages, tokenizer, sample.where)
    return chat(messages, sample.json(), sample.where)


def render(
    messages: Sequence[Message],
    tokenizer: TextTokenizer,
    where: str,
    images: Images | None = None,
    sizes: Mapping[str, Size] = NO_SIZES,
) -> Document:
    """The tokens of a conversation or a message tree without a chat template: BOS, then the text of each message and EOS.

    `sizes` holds the sizes of clips and images by member. Raises `DataError` beginning with `where` for another medium, and for messages without any loss.
    """
    runs: list[tuple[list[int], list[float]]] = [([tokenizer.bos], [0.0])]
    if images is None:
        contents = tokenizer.encode_parts([content_of(message, where) for message in messages])
    else:
        contents = _with_images(messages, tokenizer, where, images, sizes)
    for message, content in zip(messages, contents, strict=True):
        if message.branch == len(runs):
            runs.append(([runs[0][0][-1]], [0.0]))
        ids, weights = runs[message.branch]
        ids += [*content, tokenizer.eos]
        weights += [message.loss_weight] * (len(content) + 1)
    return document_of(runs, where)


def prompt_of(
    messages: Sequence[Message],
    tokenizer: TextTokenizer,
    where: str,
    images: Images,
    sizes: Mapping[str, Size] = NO_SIZES,
) -> list[int]:
    """The tokens of messages that an answer follows, as `render` begins them. `sizes` holds the sizes of clips and images by member."""
    contents = _with_images(messages, tokenizer, where, images, sizes)
    return [tokenizer.bos, *(number for content in contents for number in (*content, tokenizer.eos))]


def _with_images(
    messages: Sequence[Message], tokenizer: TextTokenizer, where: str, images: Images, sizes: Mapping[str, Size]
) -> list[list[int]]:
    """The tokens of each message. Images and clips are in the context: a branch does not see the others."""
    media = [(message.branch, part) for message in messages for part in message.parts if isinstance(part, Medium)]
    for branch, medium in media:
        if medium.type == "video" and images.frames is None:
            raise DataError(
                f"{where}: holds the video {medium.media!r}, and this model reads images; set model.connector.video_window, and clips of its encoder"
            )
        if medium.type == "audio":
            raise DataError(f"{where}: holds the audio {medium.media!r}, and this task reads images and clips")
        if branch:
            raise DataError(
                f"{where}: branch {branch} holds the {medium.type} {medium.media!r}; put it into the context (branch 0)"
            )
    for message in messages:
        held = sum(isinstance(part, Medium) for part in message.parts)
        if held > 1 and message.loss_weight:
            raise DataError(
                f"{where}: a message with a loss holds {held} images or clips, which would show each other its text; put them into a message before it"
            )
    pieces = [
        [piece for part in message.parts for piece in _pieces(part, where, images, sizes)] for message in messages
    ]
    texts = iter(tokenizer.encode_parts([piece for found in pieces for piece in found if isinstance(piece, str)]))
    return [
        [number for piece in found for number in (next(texts) if isinstance(piece, str) else piece)] for found in pieces
    ]


def _pieces(part: Text | Medium, where: str, images: Images, sizes: Mapping[str, Size]) -> list[str | list[int]]:
    """Texts and tokens of a part of a message. Every frame of a clip follows its time."""
    if isinstance(part, Text):
        return [part.text]
    if part.type == "image" or images.frames is None:
        return [picture_ids(part, where, images, sizes)]
    stamps, ids = time_stamps(sizes.get(part.media), images.frames.clips, where), images.frames.ids
    return [piece for stamp in stamps for piece in (stamp, ids)]


def picture_ids(medium: Medium, where: str, images: Images, sizes: Mapping[str, Size]) -> list[int]:
    """The special tokens of an image, those of its tiles after it, or those of the frames of a clip. Raises `DataError` for media of unknown size."""
    if medium.type == "video" and images.frames is not None:
        return images.frames.ids * len(time_stamps(sizes.get(medium.media), images.frames.clips, where))
    if images.tiles is None:
        return images.ids
    tiling = image_tiling(sizes.get(medium.media), images.tiles.crops, medium.media, where)
    return [*images.ids, *images.tiles.ids(tiling)]


def document_of(segments: Sequence[tuple[list[int], list[float]]], where: str) -> Document:
    """The document of some segments, ids and weights each. Raises `DataError` beginning with `where` for a conversation or a branch without any loss."""
    for number, (_, weights) in enumerate(segments):
        if not any(weights) and (number or len(segments) == 1):
            here = f"{where}: branch {number}" if number else where
            raise DataError(f"{here}: no token has a loss; give a message the role assistant, or a weight above 0")
    return Document([ids for ids, _ in segments], [weights for _, weights in segments])


def content_of(message: Message, where: str) -> str:
    """The text of a message. Raises `DataError` beginning with `where` for a medium."""
    texts = [part.text for part in message.parts if isinstance(part, Text)]
    if len(texts) != len(message.parts):
        raise DataError(f"{where}: a message holds media, and this task reads texts only")
    return "".join(texts)


def _arrays(documents: Sequence[Document]) -> Tokens:
    """The arrays of some documents. Those that are the same without messages are left out."""
    ids = np.array([token for document in documents for run in document.segments for token in run], np.int32)
    ends = np.cumsum([sum(map(len, document.segments)) for document in documents], dtype=np.int64)
    if all(document.weights is None for document in documents):
        return Tokens(ids, ends)
    runs = [len(run) for document in documents for run in document.segments]
    weights = np.ones(len(ids), np.float32)
    for end, document in zip(ends.tolist(), documents, strict=True):
        if document.weights is not None:
            own = [weight for run in document.weights for weight in run]
            weights[end - len(own) : end] = own
    segments = np.cumsum(runs, dtype=np.int64) if len(runs) > len(documents) else None
    return Tokens(ids, ends, segments, weights, np.array([document.weights is None for document in documents]))


def join(pieces: Sequence[Tokens]) -> Tokens:
    """The tokens of several parts of a split, one after another."""
    if not pieces:
        return Tokens(np.empty(0, np.int32), np.empty(0, np.int64))
    begins = np.cumsum([0, *(len(piece.ids) for piece in pieces)]).tolist()

    pieces = [
        piece._replace(ends=piece.ends + begin, segments=None if piece.segments is None else piece.segments + begin)
        for piece, begin in zip(pieces, begins, strict=False)
    ]

    def joined(name: str, default: Callable[[Tokens], np.ndarray]) -> np.ndarray | None:
        arrays = [getattr(piece, name) for piece in pieces]
        if all(array is None for array in arrays):
            return None
        pairs = zip(pieces, arrays, strict=True)
        return np.concatenate([default(piece) if array is None else array for piece, array in pairs])

    return Tokens(
        np.concatenate([piece.ids for piece in pieces]),
        np.concatenate([piece.ends for piece in pieces]),
        joined("segments", lambda piece: piece.ends),
        joined("weights", lambda piece: np.ones(len(piece.ids), np.float32)),
        joined("texts", lambda piece: np.ones(len(piece.ends), bool)),
    )


def messages_of(sample: Sample) -> list[Message]:
    """The messages of a sample; empty if it has none."""
    found = sample.json().get("messages") if "json" in sample.members else None
    return parse_messages(found, sample.where) if found else []


def text_of(dataset: Samples, index: int) -> str:
    """The text of a sample: its first caption, else its member txt."""
    return _text(dataset[index])


def _text(sample: Sample) -> str:
    texts = read_captions(sample.members, sample.where)
    if not texts:
        raise DataError(f"{sample.where}: no text in its json or txt member")
    return texts[0]


def all_texts(dataset: Samples) -> Iterator[str]:
    """The texts of a split in order."""
    for index in range(len(dataset)):
        yield text_of(dataset, index)
