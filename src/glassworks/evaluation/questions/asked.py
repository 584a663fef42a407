"""The questions of a sample, and whether an answer is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glassworks.data.messages import Message, Text
from glassworks.data.points import PointScore, parse_points, score_points
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.image_rows import questions_of
from glassworks.data.reading.tokens import messages_of
from glassworks.data.scenes.parser import SceneParser
from glassworks.errors import DataError
from glassworks.evaluation.captions.facts import describes_scene, judge

UNNAMED = "answer"
"""The kind of questions without labels."""


@dataclass(frozen=True)
class Asked:
    """A question about an image, and its true answer."""

    kind: str
    messages: Sequence[Message]
    """The messages before the answer, the image among them."""
    answer: str
    truth: Mapping[str, Any] = field(default_factory=dict)
    """The label of the question: boxes, objects or references, if it has any."""

    @property
    def text(self) -> str:
        """The last text before the answer."""
        texts = [part.text for message in self.messages for part in message.parts if isinstance(part, Text)]
        return texts[-1] if texts else ""


def asked_of(sample: Sample) -> list[Asked]:
    """The last supervised message of each branch, or of a conversation, as a question. Raises `DataError` for labels that do not fit the branches."""
    messages, labels = messages_of(sample), questions_of(sample)
    context = [message for message in messages if not message.branch]
    branches = range(1, messages[-1].branch + 1) if messages else range(0)
    if labels and len(labels) != len(branches):
        raise DataError(f"{sample.where}: {len(labels)} questions in its labels, but {len(branches)} branches")
    runs = [[*context, *(one for one in messages if one.branch == branch)] for branch in branches] or [context]
    found = []
    for number, run in enumerate(runs):
        last = max((place for place, message in enumerate(run) if message.loss_weight), default=None)
        if last is None or (branches and not run[last].branch):
            continue
        label = labels[number] if labels else {}
        answer = "".join(part.text for part in run[last].parts if isinstance(part, Text))
        found.append(Asked(str(label.get("kind", UNNAMED)), run[:last], answer, label))
    return found


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right."""

    score: float
    """1 for a right answer, else 0. For points, the share that lies inside an object of their own."""
    points: PointScore | None = None


def verdict(
    text: str,
    answer: str,
    truth: Mapping[str, Any],
    size: tuple[int, int],
    labels: Mapping[str, Any],
    parser: SceneParser,
) -> Verdict:
    """The verdict on `text`. `size` is that of the image in pixels, `labels` are those of the sample.

    A question with `boxes` wants points, one with `objects` a list of names in any order, or with `which` one of them. A caption of a composed scene is right if it names exactly its
    objects with their counts. Any other answer must have the words of the true one.
    """
    if boxes := truth.get("boxes"):
        try:
            points = parse_points(text)
        except DataError:
            points = []
        scored = score_points(points, boxes, size)
        return Verdict(scored.precision, scored)
    if "which" not in truth and (objects := truth.get("objects")):
        return Verdict(float(sorted(_words(name) for name in text.split(",")) == sorted(map(_words, objects))))
    if "references" in truth and describes_scene(labels):
        found = judge(parser, labels, text)
        return Verdict(float(bool(found.objects and found.counts)))
    return Verdict(float(_words(text) == _words(answer)))


def _words(text: str) -> str:
    return " ".join(text.lower().rstrip(" .").split())
