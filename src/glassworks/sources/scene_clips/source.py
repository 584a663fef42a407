"""Clips composed from OpenMoji sprites, with exact questions that no single frame answers, as message trees.

As in the source `scenes`, pairs of kinds in validation or test never occur in training. A clip is one animated WebP,
lossless, with frames of equal duration: it decodes exactly and in a millisecond.

Labels: `objects` [{name, key, action, direction, boxes}] with a box [x0, y0, x1, y1] in pixels or null for each frame,
`ground` {kind (its texture), color, variant}, and `questions`: for each branch {kind, answer} and the exact truth.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

from glassworks.config.datasets import Split
from glassworks.data.animations import write_webp
from glassworks.data.messages import Medium, Size
from glassworks.data.question_trees import question_tree
from glassworks.data.records import Record
from glassworks.data.scenes.clips import TURN, compose_clip
from glassworks.data.scenes.kinds import Kind
from glassworks.pipeline.execution import Context
from glassworks.sources.openmoji.source import Drawings
from glassworks.sources.protocol import Item, Part, in_order
from glassworks.sources.scenes.source import Composition, Grounds, Sprites

MEMBER = "webp"
VISIBLE = 40
"""Mean change of the visible pixels, of 255, by which a turn is seen."""


def records(context: Context) -> Iterator[Item]:
    """Every clip of every split. Clip number i of a split does not depend on the number of clips."""
    return in_order(parts(context))


def parts(context: Context) -> list[Part]:
    """Blocks of clips."""
    params, stage = context.params, Composition(context, turns_visibly)
    size = Size(
        kind="video",
        width=stage.size,
        height=stage.size,
        frames=params["frames"],
        seconds=params["frames"] / params["rate"],
    )

    def measure(key: str, degrees: int, rank: int) -> tuple[int, int]:
        return stage.sprites.draw(key, degrees)[rank].size

    def compose(split: Split, numbers: Iterable[int]) -> Iterator[Record]:
        for index in numbers:
            clip = compose_clip(
                stage.kinds,
                stage.meetings,
                stage.size,
                params["frames"],
                measure,
                params["questions"],
                stage.seed,
                split,
                index,
                params.get("wordings"),
            )
            texture, color, variant = clip.ground
            key = f"{split}-{index:06d}"
            yield Record(
                key,
                split,
                key,
                labels={
                    "objects": [
                        {
                            "name": actor.kind.name,
                            "key": actor.kind.key,
                            "action": actor.role.action,
                            "direction": actor.role.direction,
                            "boxes": [pose and pose.box for pose in actor.poses],
                        }
                        for actor in clip.actors
                    ],
                    "ground": {"kind": texture, "color": color, "variant": variant},
                    "questions": [
                        {name: value for name, value in question.items() if name != "text"}
                        for question in clip.questions
                    ],
                },
                media={
                    "poses": [[pose and [pose.rank, pose.degrees] for pose in actor.poses] for actor in clip.actors]
                },
                messages=question_tree(
                    Medium(type="video", media=MEMBER),
                    ((question["text"], question["answer"]) for question in clip.questions),
                ),
                sizes={MEMBER: size},
            )

    return stage.parts("clips", compose)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that draws a clip from its record: {"webp": bytes}, RGB, `size` pixels square."""
    params = context.params
    sprites, grounds = Sprites(Drawings(context.inputs["raw"]), params["size"]), Grounds(params["size"])

    def draw(record: Record) -> dict[str, bytes]:
        ground = record.labels["ground"]
        bare = grounds.draw(ground["kind"], ground["color"], ground["variant"])
        frames = []
        for time in range(params["frames"]):
            frame = bare.copy()
            for thing, poses in zip(record.labels["objects"], record.media["poses"], strict=True):
                if poses[time] is not None:
                    rank, degrees = poses[time]
                    sprite = sprites.draw(thing["key"], degrees)[rank]
                    frame.paste(sprite, thing["boxes"][time][:2], sprite)
            frames.append(frame)
        return {MEMBER: write_webp(frames, round(1000 / params["rate"]))}

    return draw


def turns_visibly(sprites: Sprites, kind: Kind) -> bool:
    """Whether a kind looks different after every turn by one step. A wheel does not."""
    views = [_centred(sprites.draw(kind.key, degrees)[5], sprites.canvas) for degrees in range(0, 120, TURN)]
    for one, other in pairwise(views):
        area = np.count_nonzero(one[..., 3] + other[..., 3])
        if np.abs(one - other).sum() / 4 < VISIBLE * area:
            return False
    return True


def _centred(sprite: Image.Image, canvas: int) -> np.ndarray:
    """(canvas, canvas, 4): a sprite in the middle of nothing, its colours multiplied by alpha."""
    image = Image.new("RGBA", (canvas, canvas))
    image.paste(sprite, ((canvas - sprite.width) // 2, (canvas - sprite.height) // 2))
    return np.asarray(image.convert("RGBa")).astype(np.int64)
