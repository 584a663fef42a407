"""Settings of the source `easy_vqa`."""

from typing import Literal

from glassworks.config.datasets import Credit, Dataset, Fraction, Wheel

CREDIT = Credit(
    title="easy-VQA: questions about coloured shapes",
    licence="MIT",
    credit="Victor Zhou: the package easy-vqa",
    derivation="Images are copied byte for byte into shards; the questions of an image are joined, their texts are used as they are.",
)

WHEELS = [
    Wheel(
        name="easy-vqa",
        version="1.0",
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    )
]


class EasyVQA(Dataset):
    """easy-VQA (MIT): 48,248 questions with 13 answers about 5,000 images of coloured shapes, from a pinned wheel."""

    fetch_fields = ("wheels",)

    source: Literal["easy_vqa"]
    validation: Fraction = 0.1
    """Share of the training images in validation. The test split is the published one."""
    wheels: list[Wheel] = WHEELS
    """The pinned wheel."""

    def question_kinds(self) -> list[str]:
        return ["yes or no", "shape", "color"]
