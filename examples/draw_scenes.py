"""Draw small landscapes with captions: `python examples/draw_scenes.py FOLDER [COUNT [SEED]]`.

The folder gets COUNT images (200 by default) of 96 x 96 pixels, and captions.csv. The same seed draws the same images.
"""

import csv
import random
import sys
from itertools import combinations
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 96
SKIES = {"by day": "#a9d4f5", "at night": "#1b2150"}
MEADOW = "#7cb342"


def house(pen: ImageDraw.ImageDraw, x: int, y: int, r: int) -> None:
    """Each figure is centred at (x, y), in pixels, and about 2 r wide and high."""
    pen.rectangle((x - r, y - r // 4, x + r, y + r), fill="#c0392b")
    pen.polygon([(x - r - 3, y - r // 4), (x, y - r), (x + r + 3, y - r // 4)], fill="#5d4037")
    pen.rectangle((x - r // 4, y + r // 3, x + r // 4, y + r), fill="#f5e6c8")


def tree(pen: ImageDraw.ImageDraw, x: int, y: int, r: int) -> None:
    pen.rectangle((x - r // 5, y, x + r // 5, y + r), fill="#6d4c41")
    pen.ellipse((x - r * 3 // 4, y - r, x + r * 3 // 4, y + r // 3), fill="#1b5e20")


def car(pen: ImageDraw.ImageDraw, x: int, y: int, r: int) -> None:
    pen.rounded_rectangle((x - r, y, x + r, y + r * 2 // 3), 3, fill="#f9a825")
    pen.rounded_rectangle((x - r // 2, y - r // 2, x + r // 2, y + 2), 3, fill="#f9a825")
    for wheel in (x - r // 2, x + r // 2):
        pen.ellipse((wheel - r // 4, y + r // 2, wheel + r // 4, y + r), fill="#212121")


def balloon(pen: ImageDraw.ImageDraw, x: int, y: int, r: int) -> None:
    pen.ellipse((x - r * 3 // 4, y - r, x + r * 3 // 4, y + r // 2), fill="#8e44ad")
    pen.line((x, y + r // 2, x, y + r), fill="#eeeeee", width=2)


def sheep(pen: ImageDraw.ImageDraw, x: int, y: int, r: int) -> None:
    for leg in (x - r // 2, x + r // 3):
        pen.rectangle((leg, y + r // 3, leg + r // 5, y + r), fill="#424242")
    pen.ellipse((x - r, y - r // 2, x + r * 2 // 3, y + r // 2), fill="#fafafa")
    pen.ellipse((x + r // 3, y - r // 2, x + r, y + r // 6), fill="#424242")


FIGURES = {"house": house, "tree": tree, "car": car, "balloon": balloon, "sheep": sheep}


def main(folder: Path, count: int = 200, seed: int = 0) -> None:
    draws = random.Random(seed)
    folder.mkdir(parents=True)
    rows = [("file", "caption")]
    for number in range(1, count + 1):
        names = draws.choice(list(combinations(FIGURES, 2)))
        time = draws.choice(list(SKIES))
        image = Image.new("RGB", (SIZE, SIZE), SKIES[time])
        pen = ImageDraw.Draw(image)
        pen.rectangle((0, draws.randint(50, 58), SIZE, SIZE), fill=MEADOW)
        for name, x in zip(draws.sample(names, 2), (25, 71), strict=True):
            y = draws.randint(22, 34) if name == "balloon" else draws.randint(56, 70)
            FIGURES[name](pen, x + draws.randint(-4, 4), y, draws.randint(14, 18))
        file = f"{number:03d}.png"
        image.save(folder / file)
        rows.append((file, f"a {names[0]} and a {names[1]} {time}"))
    with (folder / "captions.csv").open("w", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
