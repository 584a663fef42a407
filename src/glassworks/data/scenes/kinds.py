"""The kinds of object in scenes, and the split of every pair of kinds.

A kind is an emoji named by one everyday, countable noun, so that descriptions are unambiguous.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, islice

from glassworks.config.datasets import SPLITS, Split
from glassworks.data.records import Record
from glassworks.data.splits import share, split_of
from glassworks.errors import ConfigError

WORDS = """
frog, rooster, chicken, penguin, dove, turkey, eagle, duck, owl, peacock, parrot, swan, flamingo, feather, ant,
honeybee, lady beetle, spider, scorpion, butterfly, worm, snail, mouse, tiger, rabbit, cat, horse, ram, monkey, dog,
pig, elephant, koala, poodle, camel, hamster, wolf, bear, panda, chipmunk, lion, unicorn, bat, fox, gorilla, giraffe,
zebra, hedgehog, kangaroo, mammoth, beaver, whale, octopus, dolphin, crab, shark, lobster, crocodile, snake, turtle,
dragon,
tulip, rose, sunflower, palm tree, cactus, maple leaf, mushroom, potted plant, tomato, watermelon, tangerine, lemon,
banana, pineapple, red apple, pear, peach, strawberry, coconut, mango, eggplant, avocado, cucumber, potato, carrot,
onion, bell pepper, hot pepper, chestnut, hot dog, taco, burrito, hamburger, croissant, pretzel, sandwich, bagel, egg,
doughnut, cookie, lollipop, cupcake, birthday cake, jar, wine glass, cocktail glass, beer mug, teapot, baby bottle,
backpack, top hat, crown, necktie, dress, kimono, bikini, handbag, running shoe, ring, scarf, coat, lipstick,
graduation cap, laptop, floppy disk, battery, electric plug, keyboard, abacus, door, toilet, bathtub, bed, shopping
cart, fire extinguisher, broom, basket, chair, mirror, window, bucket, toothbrush, plunger, camera, light bulb,
television, flashlight, candle, clapper board, key, package, envelope, postbox, pill, syringe, credit card, money bag,
microphone, radio, saxophone, guitar, trumpet, violin, drum, harp, banjo, accordion, briefcase, clipboard, pushpin,
file folder, wastebasket, telephone, mobile phone, microscope, test tube, bell, megaphone, bomb, wrench, hammer,
shield, toolbox, magnet, boomerang, shovel, ladder, gear, paintbrush, pencil, scroll, newspaper, coffin, basketball,
soccer ball, volleyball, baseball, boxing glove, kite, teddy bear, joystick, puzzle piece, trophy, balloon, wrapped
gift, crystal ball, bullseye, ribbon, alarm clock, watch, umbrella, stop sign,
house, castle, factory, tent, volcano, ferris wheel, snowman, snowflake, star, rainbow, rocket, helicopter, airplane,
flying saucer, parachute, satellite, motorcycle, locomotive, ambulance, fire engine, taxi, tractor, bicycle, motor
scooter, delivery truck, fuel pump, ship, canoe, anchor, sailboat
"""
NOUNS = frozenset(" ".join(WORDS.split()).split(", "))
"""Emoji names suitable as nouns for drawings of 20 pixels: short, countable, concrete and distinct."""


@dataclass(frozen=True)
class Kind:
    """A kind of object."""

    key: str
    """Key of its record: the code of its drawing in lower case."""
    name: str


def choose_kinds(
    sprites: Iterable[Record], count: int, seed: int, dataset: str, fits: Callable[[Kind], bool] = lambda kind: True
) -> list[Kind]:
    """`count` kinds from the training split of the sprites that are fit, spread over the subcategories.

    A smaller count gives a subset. Raises `ConfigError` when the sprites have fewer than `count` kinds.
    """
    shelves: dict[str, list[Kind]] = defaultdict(list)
    for record in sprites:
        if record.split == "train" and record.texts[0] in NOUNS:
            shelves[record.labels["subcategory"]].append(Kind(record.key, record.texts[0]))
    ranked = []
    for kinds in shelves.values():
        kinds.sort(key=lambda kind: share(seed, "kind", kind.key))
        ranked += [(place, share(seed, "kind", kind.key), kind) for place, kind in enumerate(kinds)]
    chosen = list(islice((kind for *_, kind in sorted(ranked, key=lambda row: row[:2]) if fits(kind)), count))
    if len(chosen) < count:
        raise ConfigError(
            f"datasets.{dataset}.kinds: {count} kinds are asked for, and the training split of the sprites has "
            f"{len(chosen)} suitable ones that a plain noun names; ask for fewer"
        )
    return chosen


class Meetings:
    """The pairs of kinds that may appear together in each split: every unordered pair belongs to exactly one split."""

    def __init__(self, kinds: list[Kind], held_out: dict[str, float], seed: int) -> None:
        self.pairs: dict[Split, list[tuple[int, int]]] = {split: [] for split in SPLITS}
        self.partners: dict[Split, list[set[int]]] = {split: [set() for _ in kinds] for split in SPLITS}
        for a, b in combinations(range(len(kinds)), 2):
            split = split_of("|".join(sorted((kinds[a].key, kinds[b].key))), held_out, seed)
            self.pairs[split].append((a, b))
            self.partners[split][a].add(b)
            self.partners[split][b].add(a)
        self.closed = {split: [pair for pair in self.pairs[split] if self.third(split, pair)] for split in SPLITS}
        """Pairs with at least one possible third kind."""

    def third(self, split: Split, pair: tuple[int, int]) -> list[int]:
        """Kinds that may appear with both kinds of a pair."""
        return sorted(self.partners[split][pair[0]] & self.partners[split][pair[1]])
