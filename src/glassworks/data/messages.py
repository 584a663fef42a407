"""Messages of a sample: a conversation, or a message tree of one context and several branches.

Records and shards store them as JSON. Every branch sees the context and not the other branches: several annotations of one image, for example.
The functions that an assistant may call are arguments of the chat template, so they are in the labels of the record, as `tools`.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from glassworks.artifacts.digests import canonical_json
from glassworks.config.base import Settings
from glassworks.errors import DataError

Kind = Literal["image", "video", "audio"]
"""Kind of a media file."""
SUPERVISED = "assistant"
"""The role whose messages have a loss unless they say otherwise."""
TOOLS = "tools"
"""The label with the JSON schemas of the functions that the assistant may call."""
IN_ORDER = ("arguments", TOOLS)
"""Keys whose values keep the order of their own keys in JSON, because a chat template prints them."""


class Text(Settings):
    """A text of a message."""

    type: Literal["text"]
    text: str


class Medium(Settings):
    """A media file in a message."""

    type: Kind
    media: str
    """Its member of the sample, such as `png` or `0.png`."""


class Function(Settings):
    """A function and the arguments of one call."""

    name: Annotated[str, Field(min_length=1)]
    arguments: dict[str, Any]
    """A JSON object, never its text."""


class ToolCall(Settings):
    """A call of a function by the assistant."""

    type: Literal["function"]
    function: Function
    id: str | None = None
    """The id that the answer of the tool refers to."""


class Message(Settings):
    """One message. An assistant message with tool calls may have an empty content."""

    role: Annotated[str, Field(min_length=1)]
    """Such as `system`, `user` or `assistant`."""
    content: str | list[Annotated[Text | Medium, Field(discriminator="type")]]
    """A text, or texts and media in order."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Weight of the loss of every token; 0 for none. None is 1 for the role `assistant`, 0 for others."""
    branch: Annotated[int, Field(ge=0)] = 0
    """0 in the context; the number of the branch, from 1, in a message tree."""
    tool_calls: list[ToolCall] | None = None
    """Functions that the assistant calls."""
    tool_call_id: str | None = None
    """The call that a message of the role `tool` answers."""
    name: str | None = None
    """Name of the tool or of the speaker."""
    reasoning: str | None = None
    """Thoughts before the content; published as `reasoning_content` or `thinking`."""

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


def stored_json(value: Any) -> str:
    """Canonical JSON, in which tools and the arguments of calls keep the order of their keys."""
    text = canonical_json(value)
    if not any(f'"{key}":' in text for key in IN_ORDER):
        return text
    return json.dumps(_sorted(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def order_fault(messages: Sequence[Message]) -> str | None:
    """A fault in the order of the branches: the context comes first, then the branches 1, 2, …"""
    before = 0
    for number, message in enumerate(messages):
        if message.branch not in (before, before + 1):
            return f"messages.{number}.branch: {message.branch} follows {before}; write the context (0), then the branches 1, 2, … in order"
        before = message.branch
    return None


def texts_of(messages: Iterable[Message]) -> list[str]:
    """All texts of messages, reasoning included."""
    found: list[str] = []
    for message in messages:
        found += [message.reasoning] if message.reasoning else []
        found += [part.text for part in message.parts if isinstance(part, Text)]
    return found


def media_of(messages: Iterable[Message]) -> list[str]:
    """The members that messages refer to."""
    return [part.media for message in messages for part in message.parts if isinstance(part, Medium)]


def _sorted(value: Any) -> Any:
    """A JSON value with sorted keys, except inside `IN_ORDER`."""
    if isinstance(value, dict):
        return {key: value[key] if key in IN_ORDER else _sorted(value[key]) for key in sorted(value)}
    return [_sorted(entry) for entry in value] if isinstance(value, list) else value


def _parsed(adapter: TypeAdapter[Any], value: Any, where: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        fault = error.errors()[0]
        path = ".".join(str(part) for part in (where, *fault["loc"]))
        given = fault["input"]
        raise DataError(f"{path}: {fault['msg'].removeprefix('Input ')} (given: {given!r:.80})") from None
