"""Questions with exact answers: the last answer of a conversation, given the messages before it."""

import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glassworks.data.messages import SUPERVISED, TOOLS, Message
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.tokens import content_of, messages_of
from glassworks.data.splits import share
from glassworks.errors import DataError

OTHER = "other"
"""The kind of a sample whose labels name none."""


@dataclass(frozen=True)
class Question:
    """A conversation up to an answer."""

    key: str
    kind: str
    group: str
    """What the answer rests on. Questions of one group are resampled together."""
    messages: list[Message]
    """Everything before the answer."""
    tools: list[Any] | None
    answer: str
    """The true answer."""

    @property
    def text(self) -> str:
        """The content of the last message."""
        return content_of(self.messages[-1], self.key) if self.messages else ""

    def after(self, examples: Sequence["Question"]) -> "Question":
        """This question after solved examples. All system messages are left out."""
        turns = [*(turn for example in examples for turn in example.solved()), *self.messages]
        return Question(
            self.key, self.kind, self.group, [turn for turn in turns if turn.role != "system"], self.tools, self.answer
        )

    def solved(self) -> list[Message]:
        """The conversation with its answer."""
        return [*self.messages, Message(role=SUPERVISED, content=self.answer)]


def question_of(sample: Sample) -> Question | None:
    """The last supervised answer of a sample as a question; None for an answer without text, such as a call of a tool.

    Raises `DataError` naming a sample without messages and a message tree.
    """
    messages = messages_of(sample)
    if not messages or any(message.branch for message in messages):
        found = "a message tree" if messages else "no messages"
        raise DataError(f"{sample.where}: {found}; the evaluation `answers` scores conversations")
    content = sample.json()
    labels = content.get("labels") or {}
    last = max(
        (number for number, one in enumerate(messages) if one.role == SUPERVISED and one.loss_weight), default=None
    )
    if last is None or messages[last].tool_calls or not (answer := content_of(messages[last], sample.where)).strip():
        return None
    fact = labels.get("fact")
    group = json.dumps(fact, ensure_ascii=False) if fact else str(content.get("group", sample.key))
    kind = str(labels.get("kind", OTHER))
    return Question(sample.key, kind, group, messages[:last], labels.get(TOOLS), answer)


def examples(training: Samples, kinds: Iterable[str], count: int, seed: int) -> dict[str, list[Question]]:
    """For each kind, `count` questions of the training split by the hash of their keys, or all if there are fewer."""
    wanted = set(kinds)
    found: dict[str, list[tuple[float, Question]]] = defaultdict(list)
    for index in range(len(training)):
        question = question_of(training[index])
        if question is not None and question.kind in wanted:
            found[question.kind].append((share(seed, "shots", question.key), question))
    return {kind: [one for _, one in sorted(found[kind], key=lambda pair: pair[0])[:count]] for kind in sorted(wanted)}


def is_exact(answer: str, true: str) -> bool:
    """Whether an answer is the true one: the same JSON value if the true answer is a JSON object, else the same text up to white space."""
    fields = json_object(true)
    return _canonical(answer) == _canonical(true) if fields is None else _same(json_object(answer), fields)


def right_fields(answer: str, true: Mapping[str, Any]) -> dict[str, bool]:
    """For each field of a true JSON answer, whether the answer is JSON and has the same value."""
    given = json_object(answer) or {}
    return {name: name in given and _same(given[name], value) for name, value in true.items()}


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def exchanged(questions: Sequence[Question], seed: int) -> list[int]:
    """For each question the index of another one of its kind, by a hash order; its own if the kind has one question."""
    others = list(range(len(questions)))
    by_kind: dict[str, list[int]] = defaultdict(list)
    for index in sorted(others, key=lambda index: share(seed, "shuffled instructions", questions[index].key)):
        by_kind[questions[index].kind].append(index)
    for order in by_kind.values():
        for one, other in zip(order, order[1:] + order[:1], strict=True):
            others[one] = other
    return others


def _canonical(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values, in which true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
