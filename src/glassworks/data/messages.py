"""Messages of a sample: a conversation, or a message tree of one context and several branches.

Records and shards store them as JSON. Every branch sees the context and not the other branches: several annotations of one image, for example.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from glassworks.config.base import Settings
from glassworks.errors import DataError

Kind = Literal["image", "video", "audio"]
"""Kind of a media file."""
SUPERVISED = "assistant"
"""The role whose messages have a loss unless they say otherwise."""


class Text(Settings):
    """A text of a message."""

    type: Literal["text"]
    text: str


class Medium(Settings):
    """A media file in a message."""

    type: Kind
    media: str
    """Its member of the sample, such as `png` or `0.png`."""


class Message(Settings):
    """One message."""

    role: Annotated[str, Field(min_length=1)]
    """Such as `system`, `user` or `assistant`."""
    content: str | list[Annotated[Text | Medium, Field(discriminator="type")]]
    """A text, or texts and media in order."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Weight of the loss of every token; 0 for none. None is 1 for the role `assistant`, 0 for others."""
    branch: Annotated[int, Field(ge=0)] = 0
    """0 in the context; the number of the branch, from 1, in a message tree."""

    @property
    def loss_weight(self) -> float:
        """Weight of the loss of every token."""
        return float(self.role == SUPERVISED) if self.weight is None else self.weight

    @property
    def parts(self) -> "Sequence[Text | Medium]":
        """Texts and media in order."""
        return [Text(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class Size(Settings):
    """Kind and size of a media file, so that its tokens are counted without opening it."""

    kind: Kind
    width: Annotated[int, Field(ge=1)] | None = None
    """Pixels."""
    height: Annotated[int, Field(ge=1)] | None = None
    """Pixels."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """Frames of a video."""
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Duration of a video or a sound."""


_MESSAGES, _SIZES = TypeAdapter(list[Message]), TypeAdapter(dict[str, Size])


def parse_messages(value: Any, where: str) -> list[Message]:
    """Messages from JSON. Raises `DataError` beginning with `where` for a fault in a message or in the order of the branches."""
    messages = _parsed(_MESSAGES, value, f"{where}: messages")
    if fault := order_fault(messages):
        raise DataError(f"{where}: {fault}")
    return messages


def parse_sizes(value: Any, where: str) -> dict[str, Size]:
    """Sizes by member, from JSON. Raises `DataError` beginning with `where`."""
    return _parsed(_SIZES, value, f"{where}: sizes")


def as_json(values: "Sequence[Message] | dict[str, Size]") -> Any:
    """Messages or sizes as JSON, without the keys that have their defaults."""
    if isinstance(values, dict):
        return {name: size.model_dump(mode="json", exclude_defaults=True) for name, size in values.items()}
    return [message.model_dump(mode="json", exclude_defaults=True) for message in values]


def order_fault(messages: Sequence[Message]) -> str | None:
    """A fault in the order of the branches: the context comes first, then the branches 1, 2, …"""
    before = 0
    for number, message in enumerate(messages):
        if message.branch not in (before, before + 1):
            return f"messages.{number}.branch: {message.branch} follows {before}; write the context (0), then the branches 1, 2, … in order"
        before = message.branch
    return None


def texts_of(messages: Iterable[Message]) -> list[str]:
    """All texts of messages."""
    return [part.text for message in messages for part in message.parts if isinstance(part, Text)]


def media_of(messages: Iterable[Message]) -> list[str]:
    """The members that messages refer to."""
    return [part.media for message in messages for part in message.parts if isinstance(part, Medium)]


def _parsed(adapter: TypeAdapter[Any], value: Any, where: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        fault = error.errors()[0]
        path = ".".join(str(part) for part in (where, *fault["loc"]))
        given = fault["input"]
        raise DataError(f"{path}: {fault['msg'].removeprefix('Input ')} (given: {given!r:.80})") from None
