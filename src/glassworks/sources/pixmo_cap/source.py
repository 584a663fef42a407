"""The source `pixmo_cap`: the published parquet files of allenai/pixmo-cap and the images that they name.

A record has the captions of an image, for tasks that read captions, and a message tree. Its context is the image; its
branches are a caption after the prompt `long_caption 83:` and a transcript after `transcript 40:`. As in Molmo, the number
says how long the answer is, with noise, and a tenth of the prompts has none.
"""

from collections.abc import Callable, Iterator

from glassworks.data.messages import Medium, Size
from glassworks.data.question_trees import question_tree
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.remote_images import RemoteImage, TarImages, remote_images
from glassworks.data.scenes.layout import Dice
from glassworks.data.texts import UnusableText, clean_text, clean_texts
from glassworks.pipeline.execution import Context

DEVIATION, UNIT = 25, 15
"""Standard deviation of the noise in characters, and characters that one unit of the number stands for."""
WITHOUT = 0.1
"""Share of the prompts without a number."""


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every image with a caption, in the order in which the tables name them."""
    for item in remote_images(context, ("caption", "transcripts")):
        if isinstance(item, RemoteImage):
            yield from _record(item, context)
        else:
            yield item


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The unchanged bytes of a record's image."""
    tars = TarImages(context)
    return lambda record: tars.media(record.media["place"])


def style_prompt(style: str, text: str, dice: Dice) -> str:
    """The prompt `STYLE N:`, where N tells the length of the answer `text`, or `STYLE:`.

    The noise is the sum of twelve uniform draws, which is nearly normal and the same on every machine.
    """
    if dice.random() < WITHOUT:
        return f"{style}:"
    noise = DEVIATION * (sum(dice.random() for _ in range(12)) - 6)
    return f"{style} {max(int(len(text) + noise), 0) // UNIT}:"


def _record(image: RemoteImage, context: Context) -> Iterator[Record | Dropped | Remark]:
    seed, choice = context.params["seed"], context.params["transcripts"]
    captions: list[str] = []
    answers: list[tuple[str, str]] = []
    for row in image.rows:
        try:
            caption = clean_text(row.value["caption"])
        except UnusableText as fault:
            yield Dropped(f"{row.where} ({row.url})", str(fault))
            continue
        if caption not in captions:
            captions.append(caption)
            answers.append(("long_caption", caption))
        spoken, _ = clean_texts(row.value["transcripts"] or []) if choice != "none" else ([], [])
        if spoken and choice == "one":
            spoken = [Dice(seed, "transcript", image.key, row.where).choose(spoken)]
        answers += [("transcript", text) for text in spoken]
    if not captions:
        return
    questions = [
        (style_prompt(style, text, Dice(seed, "prompt", image.key, number)), text)
        for number, (style, text) in enumerate(answers)
    ]
    member = image.facts.extension
    yield Record(
        image.key,
        image.split,
        image.group,
        captions,
        labels={
            "image_url": image.rows[0].url,
            "questions": [
                {"kind": style, "answer": text, **({"references": captions} if style == "long_caption" else {})}
                for style, text in answers
            ],
        },
        media={"place": list(image.place)},
        messages=question_tree(Medium(type="image", media=member), questions),
        sizes={member: Size(kind="image", width=image.facts.width, height=image.facts.height)},
    )
