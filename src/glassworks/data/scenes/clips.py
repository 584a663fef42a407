"""The composition of clips: things that move, grow, shrink, turn, appear, vanish, or come one after another.

Composition is a pure function of kinds, seed, split and index, and renders nothing. No single frame answers a question:
things that do not move stand anywhere, those that do not turn are turned at random, and sizes vary as those of things
that grow. Shuffled frames do not tell a direction or an order: things that come one after another are seen alone and
equally long.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glassworks.config.datasets import Split
from glassworks.data.scenes.kinds import Kind, Meetings
from glassworks.data.scenes.language import COLORS, TEXTURES
from glassworks.data.scenes.layout import GRID, MARGIN, VARIANTS, Box, Dice

ACTIONS = ("moves", "grows", "shrinks", "turns", "appears", "vanishes")
"""Answers of `action`."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Answers of `direction`, as x and y."""
ASKED = ("first", "last")
"""Places that `order` asks for."""
WAY = 32
"""Length of a movement in 72nds of the canvas."""
GROWTH = 5
"""Ranks between the smallest and the largest size of a thing that grows."""
LARGEST = 8
"""Largest rank of a sprite, an index into layout.SIZES."""
FASTEST = 6
"""Largest rank of a thing that moves."""
TURN = 30
"""Degrees of a turn from frame to frame."""

WORDINGS = {
    "action": ("what does the {name} do?", "what happens to the {name}?", "say what the {name} does."),
    "direction": (
        "which way does the {name} move?",
        "where is the {name} going?",
        "in which direction does the {name} move?",
    ),
    "order": ("what comes {which}?", "which object comes {which}?", "name the {which} object."),
}

Measure = Callable[[str, int, int], tuple[int, int]]
"""Width and height in pixels of a sprite, given its key, its turn in degrees and its rank."""


@dataclass(frozen=True)
class Pose:
    """A thing in one frame."""

    box: Box
    rank: int
    degrees: int
    """Turn, counterclockwise."""


@dataclass(frozen=True)
class Role:
    """What a thing does."""

    action: str
    """One of ACTIONS, or `comes`."""
    direction: str = ""
    """Of a thing that moves."""
    seen: range = range(0)
    """The frames in which the thing is seen."""


@dataclass(frozen=True)
class Actor:
    """A thing of a clip."""

    kind: Kind
    role: Role
    poses: list[Pose | None]
    """For each frame; None where the thing is not seen."""


@dataclass(frozen=True)
class Clip:
    """A composed clip."""

    actors: list[Actor]
    """In the order in which they come, if they come one after another."""
    ground: tuple[str, str, int]
    """Its texture, colour and variant."""
    questions: list[dict[str, Any]]
    """For each branch `text`, and the label: kind, answer and truth."""


def compose_clip(
    kinds: Sequence[Kind],
    meetings: Meetings,
    canvas: int,
    frames: int,
    measure: Measure,
    shares: dict[str, float],
    seed: int,
    split: Split,
    index: int,
    wordings: int | None = None,
) -> Clip:
    """Clip number `index` of a split, on a square canvas with a side of `canvas` pixels.

    `shares` are the relative frequencies of clips about which `action`, `direction` and `order` is asked. The first
    `wordings` of each kind of question occur; None is all.
    """
    dice = Dice(seed, "clip", split, index)
    topic = _weighted(dice, shares)
    chosen = [kinds[number] for number in dice.shuffled(_who(dice, len(kinds), meetings, split, topic))]
    roles = _roles(dice, len(chosen), topic, frames)
    while True:  # what happens is drawn before, so that no action is rarer for the space that it needs
        pairs = zip(chosen, roles, strict=True)
        actors = [Actor(kind, role, _poses(dice, kind, role, canvas, frames, measure)) for kind, role in pairs]
        if all(_apart(a, b) for place, a in enumerate(actors) for b in actors[:place]):
            break
    texture = "plain" if dice.below(3) else dice.choose(TEXTURES[1:])
    ground = (texture, dice.choose(list(COLORS)), dice.below(VARIANTS))
    return Clip(actors, ground, dice.shuffled(_questions(dice, actors, topic, wordings)))


def _weighted(dice: Dice, shares: dict[str, float]) -> str:
    at = dice.random() * sum(shares.values())
    for topic in WORDINGS:
        at -= shares.get(topic, 0.0)
        if at < 0:
            return topic
    return max(shares, key=lambda topic: shares[topic])


def _who(dice: Dice, kinds: int, meetings: Meetings, split: Split, topic: str) -> list[int]:
    """Kinds that may meet in this split: three for `order` where there are such, else two or three; in training sometimes one."""
    if topic != "order" and split == "train" and dice.below(4) == 0:
        return [dice.below(kinds)]
    if meetings.closed[split] and (topic == "order" or dice.below(2)):
        pair = dice.choose(meetings.closed[split])
        return [*pair, dice.choose(meetings.third(split, pair))]
    return list(dice.choose(meetings.pairs[split]))


def _roles(dice: Dice, things: int, topic: str, frames: int) -> list[Role]:
    """A role for each thing."""
    if topic == "order":
        each = max((frames - 2) // things, 1)
        starts = sorted(dice.below(frames - each * things + 1) for _ in range(things))
        return [
            Role("comes", seen=range(start + each * place, start + each * (place + 1)))
            for place, start in enumerate(starts)
        ]
    if topic == "direction":
        return [Role("moves", dice.choose(list(DIRECTIONS)), range(frames)) for _ in range(things)]
    roles = []
    for action in dice.shuffled(ACTIONS)[:things]:
        direction = dice.choose(list(DIRECTIONS)) if action == "moves" else ""
        at = dice.between(2, frames - 2)
        seen = {"appears": range(at, frames), "vanishes": range(at)}.get(action, range(frames))
        roles.append(Role(action, direction, seen))
    return roles


def _poses(dice: Dice, kind: Kind, role: Role, canvas: int, frames: int, measure: Measure) -> list[Pose | None]:
    """A thing in each frame."""
    if role.action == "moves":
        return _moved(dice, kind, role.direction, canvas, frames, measure)
    ranks, degrees = [_rank(dice)] * frames, [0 if role.action == "comes" else _degrees(dice)] * frames
    if role.action in ("grows", "shrinks"):
        low = dice.between(0, LARGEST - GROWTH)
        ranks = [low + round(GROWTH * time / (frames - 1)) for time in range(frames)]
        ranks = ranks[:: 1 if role.action == "grows" else -1]
    elif role.action == "turns":
        step = dice.choose((TURN, -TURN))
        degrees = [(degrees[0] + step * time) % 360 for time in range(frames)]
    poses = _placed(dice, kind, ranks, degrees, canvas, measure)
    return [pose if time in role.seen else None for time, pose in enumerate(poses)]


def _rank(dice: Dice) -> int:
    """A rank as frequent as it is in a frame of a thing that grows."""
    return dice.between(0, LARGEST - GROWTH) + dice.between(0, GROWTH)


def _degrees(dice: Dice) -> int:
    return TURN * dice.below(360 // TURN)


def _moved(dice: Dice, kind: Kind, direction: str, canvas: int, frames: int, measure: Measure) -> list[Pose | None]:
    """A thing on its way. Its place in the middle of the clip does not tell where on the axis it is going."""
    rank, degrees = min(_rank(dice), FASTEST), _degrees(dice)
    sides = measure(kind.key, degrees, rank)
    way = WAY * canvas / GRID
    steps = [way * (time / (frames - 1) - 0.5) for time in range(frames)]
    ways = [abs(part) * way for part in DIRECTIONS[direction]]
    starts = [_anywhere(dice, side, canvas, along / 2) for side, along in zip(sides, ways, strict=True)]
    poses: list[Pose | None] = []
    for step in steps:
        left, top = (round(starts[axis] + step * DIRECTIONS[direction][axis]) for axis in (0, 1))
        poses.append(Pose((left, top, left + sides[0], top + sides[1]), rank, degrees))
    return poses


def _placed(
    dice: Dice, kind: Kind, ranks: Sequence[int], degrees: Sequence[int], canvas: int, measure: Measure
) -> list[Pose]:
    """A thing with its middle in one place, where it has room in all frames."""
    sides = [measure(kind.key, turn, rank) for turn, rank in zip(degrees, ranks, strict=True)]
    most = [max(side[axis] for side in sides) for axis in (0, 1)]
    middle = [_anywhere(dice, most[axis], canvas, 0) + most[axis] / 2 for axis in (0, 1)]
    poses = []
    for side, rank, turn in zip(sides, ranks, degrees, strict=True):
        left, top = (int(middle[axis] - side[axis] / 2) for axis in (0, 1))
        poses.append(Pose((left, top, left + side[0], top + side[1]), rank, turn))
    return poses


def _anywhere(dice: Dice, side: int, canvas: int, shift: float) -> float:
    """The start of a side that has room on both sides of it for a shift."""
    low = MARGIN * canvas / GRID + shift
    return low + dice.random() * max(canvas - 2 * low - side, 0)


def _apart(a: Actor, b: Actor) -> bool:
    """Whether two things do not touch in any frame."""
    return all(
        one is None
        or other is None
        or one.box[2] < other.box[0]
        or other.box[2] < one.box[0]
        or one.box[3] < other.box[1]
        or other.box[3] < one.box[1]
        for one, other in zip(a.poses, b.poses, strict=True)
    )


def _questions(dice: Dice, actors: Sequence[Actor], topic: str, count: int | None) -> list[dict[str, Any]]:
    found, wordings = [], WORDINGS[topic][:count]
    if topic == "order":
        names = [actor.kind.name for actor in actors]
        for which, answer in zip(ASKED, (names[0], names[-1]), strict=True):
            truth = {"which": which, "objects": names}
            found.append({"text": dice.choose(wordings).format(which=which), "answer": answer, **truth})
    else:
        for actor in actors:
            answer = actor.role.action if topic == "action" else actor.role.direction
            text = dice.choose(wordings).format(name=actor.kind.name)
            found.append({"text": text, "answer": answer, "object": actor.kind.name})
    return [{"kind": topic, **question} for question in found]
