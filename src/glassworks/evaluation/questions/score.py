"""The evaluation `questions`: answers to questions about the images and clips of a held-out split, by kind of question.

The controls are the same model with another image, a grey one and none, and the most frequent answer in training. Clips are also seen with shuffled frames,
and with one frame in the place of all.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from glassworks.config.clips import Clips
from glassworks.config.packing import Images, Packing
from glassworks.data.messages import Medium
from glassworks.data.points import parse_points
from glassworks.data.reading.captions import labels_of
from glassworks.data.reading.clips import clip_member, frames_of, sizes_of
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.features import FeatureRows
from glassworks.data.reading.image_rows import by_kind, features_of
from glassworks.data.reading.pictures import Pictures, media_of, pictures_of, windows_of
from glassworks.data.reading.pixels import image_member, read_image
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import picture_ids, prompt_of
from glassworks.data.scenes.parser import SceneParser, names_in
from glassworks.data.splits import share
from glassworks.errors import DataError
from glassworks.evaluation.bootstrap import ratio_interval
from glassworks.evaluation.captions import metrics as caption_metrics
from glassworks.evaluation.captions.facts import describes_scene
from glassworks.evaluation.questions.asked import Verdict, asked_of, verdict
from glassworks.evaluation.questions.drawing import draw_points, film_strip, same_size
from glassworks.evaluation.questions.labels import CIDER, DISTANCE, RIGHT, labels
from glassworks.evaluation.questions.settings import QuestionsEvaluation
from glassworks.evaluation.scoring import Item, Scoring, exchanged
from glassworks.generation.decoding import answer
from glassworks.generation.settings import Decoding
from glassworks.models.vision_language import VisionLanguageModel

GALLERY_SIZE = 60
"""Images and clips kept for the report's gallery."""
SEEN = ("model", "shuffled", "blank", "no_image")
"""Systems that run the model."""
OF_CLIPS = ("shuffled_frames", "one_frame")
"""Further systems of a split with clips. Of an image they are the model."""


class QuestionTask(Protocol):
    """A task whose models this evaluation can score."""

    tokenizer: TextTokenizer
    packing: Packing
    blank: Tensor | None
    """Features [tokens, C] of a grey image."""

    def features_of(self, dataset: ShardDataset) -> FeatureRows | None:
        """The stored features of a split."""


def run(scoring: Scoring, config: QuestionsEvaluation, task: QuestionTask, model: VisionLanguageModel) -> int:
    """Answer every question of the split with its own image or clip, another one and none; returns their number."""
    dataset, count = scoring.scored(config)
    features, device = task.features_of(dataset), scoring.workers.device
    images = task.packing.images
    blank = task.blank
    assert features is not None and images is not None and blank is not None
    others, clips = (
        _others(dataset, features, images, count, scoring.seed),
        clip_member(sizes_of(dataset[0])) is not None,
    )
    systems = (*SEEN, *OF_CLIPS) if clips else SEEN
    decoding = Decoding(max_new_tokens=config.max_new_tokens)

    def score(batch: range) -> list[Item]:
        """The answers of all systems to the questions of some images, one item for each question."""
        samples = [dataset[index] for index in batch]
        asked = [(place, one) for place, sample in enumerate(samples) for one in asked_of(sample)]
        if not asked:
            return []
        own = [features_of(features, index, sample) for index, sample in zip(batch, samples, strict=True)]
        prompts = [
            prompt_of(one.messages, task.tokenizer, samples[place].where, images, sizes_of(samples[place]))
            for place, one in asked
        ]
        pictures = [pictures_of(prompt, images.tiles) for prompt in prompts]
        kinds = [kind for one in pictures for kind in one.kinds]
        tilings = [tiling for one in pictures for tiling in one.tilings]
        windows = torch.from_numpy(windows_of(tilings, images.tiles)).to(device) if images.tiles else None
        moving = [_clips(sample, images) for sample in samples] if clips else []
        found: dict[str, list[str]] = {}
        for system in systems:
            if system == "shuffled":
                shown = [features[int(others[index])][1]["features"] for index in batch]
            elif system == "blank":
                shown = [blank.expand_as(one) for one in own]
            else:
                shown = [
                    controlled(one, system, scoring.seed, sample.key, moving[place] if system in OF_CLIPS else ())
                    for place, (one, sample) in enumerate(zip(own, samples, strict=True))
                ]
            picked = by_kind([shown[place] for place, _ in asked], kinds)
            seen = {kind: None if one is None else one.to(device) for kind, one in picked.items()}
            ids = answer(
                model,
                prompts,
                seen["image"],
                decoding,
                task.tokenizer.ends,
                frames=seen["frame"],
                tiles=seen["tile"],
                tile_windows=windows,
            )
            found[system] = [task.tokenizer.decode(one) for one in ids]
        return [
            {
                "key": samples[place].key,
                "index": batch[place],
                "kind": one.kind,
                "question": one.text,
                "truth": [one.answer],
                "label": dict(one.truth),
                **{system: texts[number] for system, texts in found.items()},
            }
            for number, (place, one) in enumerate(asked)
        ]

    items = scoring.in_batches(count, config.batch_size, score, "images")
    if not scoring.workers.first:
        return count
    if not items:
        raise DataError(f"{dataset.directory}: no question in the {config.split} split; it has no supervised message")
    majority = _majority(scoring.training())
    for item in items:
        item["majority"] = majority.get(item["kind"], "")
    systems = (*systems, "majority")
    verdicts = _verdicts(dataset, items, systems)
    metrics = {
        "samples": count,
        "split": config.split,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "questions": dict(sorted(Counter(item["kind"] for item in items).items())),
        "pointing": sorted({item["kind"] for item in items if "boxes" in item["label"]}),
        "captions": sorted({item["kind"] for item in items if item["label"].get("references")}),
        "systems": {
            system: _scores(
                items,
                [one[system] for one in verdicts],
                consensus(items, system),
                images=count,
                resamples=config.bootstrap,
                seed=scoring.seed,
            )
            for system in systems
        },
        **({"clips": True} if clips else {}),
    }
    for item, found in zip(items, verdicts, strict=True):
        item["marks"] = {system: {RIGHT: one.score == 1} for system, one in found.items()}
    chosen = _one_of_each(items)
    shown = {id(item) for item in chosen}
    scoring.write(
        metrics,
        labels(metrics, config),
        (
            {name: value for name, value in item.items() if name not in ("label", "index")}
            for item in [*chosen, *(one for one in items if id(one) not in shown)]
        ),
        _gallery(dataset, chosen[:GALLERY_SIZE], images.frames.clips if images.frames else None),
    )
    return count


def _layout(sample: Sample, images: Images) -> list[Pictures]:
    """The pictures of each image and clip of a sample, in the order of its messages."""
    sizes = sizes_of(sample)
    return [pictures_of(picture_ids(medium, sample.where, images, sizes), images.tiles) for medium in media_of(sample)]


def _others(dataset: ShardDataset, features: FeatureRows, images: Images, count: int, seed: int) -> dict[int, int]:
    """For each sample another one of the same shape: another image cut into as many rows and columns, or a clip with as many frames."""
    by_shape: dict[Any, list[int]] = defaultdict(list)
    for index in range(count):
        shape = tuple(features[index][1]["features"].shape)
        layout = _layout(dataset[index], images) if len(shape) == 3 else []
        by_shape[shape, tuple((*one.kinds, *one.tilings) for one in layout)].append(index)
    found: dict[int, int] = {}
    for same in by_shape.values():
        places = exchanged([features[index][0] for index in same], seed, "shuffled images")
        found |= {index: same[int(place)] for index, place in zip(same, places, strict=True)}
    return found


def _clips(sample: Sample, images: Images) -> list[range]:
    """The frames of each clip among the pictures of a sample."""
    found, start = [], 0
    for one in _layout(sample, images):
        if "frame" in one.kinds:
            found.append(range(start, start + len(one.kinds)))
        start += len(one.kinds)
    return found


def controlled(features: Tensor, system: str, seed: int, key: str, clips: Sequence[range] = ()) -> Tensor:
    """The features [P, C] of an image or [F, P, C] of several pictures that a system sees. `clips` are the frames of each clip among them."""
    if system == "no_image":
        return torch.zeros_like(features)
    if system not in OF_CLIPS or not clips:
        return features
    order = list(range(len(features)))
    for clip in clips:
        if system == "one_frame":
            order[clip.start : clip.stop] = [clip[len(clip) // 2]] * len(clip)
        else:
            shares = {frame: share(seed, "shuffled frames", f"{key} {frame}") for frame in clip}
            order[clip.start : clip.stop] = sorted(clip, key=shares.__getitem__)
    return features[order]


def _majority(training: Samples) -> dict[str, str]:
    """The most frequent answer of each kind; of several, the first in alphabetical order."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(len(training)):
        for one in asked_of(training[index]):
            counts[one.kind][one.answer] += 1
    return {kind: min(found, key=lambda text: (-found[text], text)) for kind, found in counts.items()}


def _verdicts(dataset: ShardDataset, items: list[Item], systems: Sequence[str]) -> list[dict[str, Verdict]]:
    """The verdict on the answer of each system, for each item."""
    known = {item["index"]: labels_of(dataset[item["index"]]) for item in items}
    parser = SceneParser(names_in(one for one in known.values() if describes_scene(one)))
    sizes = {index: _size(dataset[index]) for index in known}
    return [
        {
            system: verdict(
                item[system], item["truth"][0], item["label"], sizes[item["index"]], known[item["index"]], parser
            )
            for system in systems
        }
        for item in items
    ]


def _size(sample: Sample) -> tuple[int, int]:
    """Width and height of the first image or clip of a sample, from its sizes or its header."""
    sizes = sizes_of(sample)
    for size in (*(sizes[medium.media] for medium in media_of(sample) if medium.media in sizes), *sizes.values()):
        if size.width and size.height:
            return size.width, size.height
    return _image(sample).size


def consensus(items: Sequence[Item], system: str) -> list[float | None]:
    """CIDEr-D of the answers of a system against the references of their questions; None for a question without references."""
    told = {number: item for number, item in enumerate(items) if item["label"].get("references")}
    found: list[float | None] = [None] * len(items)
    if told:
        references = {str(number): item["label"]["references"] for number, item in told.items()}
        scores = caption_metrics.score(references, {str(number): item[system] for number, item in told.items()})
        for key, value in zip(scores.keys, scores.image_cider, strict=True):
            found[int(key)] = float(value)
    return found


def _scores(
    items: list[Item],
    verdicts: list[Verdict],
    consensus: list[float | None],
    *,
    images: int,
    resamples: int,
    seed: int,
) -> dict[str, Mapping[str, float | None]]:
    """The mean score of each kind, the distance of points and CIDEr-D of captions, with 95 % intervals over the images."""
    sums: dict[str, list[list[float]]] = defaultdict(lambda: [[0.0] * images, [0.0] * images])
    for item, found, shared in zip(items, verdicts, consensus, strict=True):
        values = [(item["kind"], found.score)]
        if shared is not None:
            values.append((CIDER, shared))
        if found.points is not None and found.points.distance is not None:
            values.append((DISTANCE, found.points.distance))
        for name, value in values:
            sums[name][0][item["index"]] += value
            sums[name][1][item["index"]] += 1
    return {name: ratio_interval(*found, resamples=resamples, seed=seed) for name, found in sorted(sums.items())}


def _one_of_each(items: list[Item]) -> list[Item]:
    """One question of each image: the n-th image shows its n-th, counted round."""
    by_image: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_image[item["index"]].append(item)
    return [found[number % len(found)] for number, found in enumerate(by_image.values())]


def _gallery(dataset: ShardDataset, items: list[Item], clips: Clips | None) -> Iterator[tuple[str, bytes]]:
    """File name and content of each image. The points of an answer and the true boxes are drawn. A clip is a strip of its frames, and so are several images."""
    for item in items:
        sample = dataset[item["index"]]
        boxes, media = item["label"].get("boxes"), media_of(sample)
        if clips is not None and len(media) < 2 and (frames := frames_of(sample, clips)) is not None:
            yield f"{_stem(item)}.png", film_strip(frames)
        elif len(media) > 1:
            yield f"{_stem(item)}.png", film_strip(same_size([_shown(sample, medium, clips) for medium in media]))
        elif boxes:
            yield f"{_stem(item)}.png", draw_points(_image(sample), _points(item["model"]), boxes)
        else:
            extension = image_member(sample.members, sample.where)
            yield f"{_stem(item)}.{extension.rpartition('.')[2]}", bytes(sample.members[extension])


def _shown(sample: Sample, medium: Medium, clips: Clips | None) -> Image.Image:
    """An image of a sample, or the first frame of a clip."""
    frames = frames_of(sample, clips, medium.media) if clips is not None and medium.type == "video" else None
    return frames[0] if frames else read_image(sample.members[medium.media], sample.where)


def _stem(item: Item) -> str:
    return str(item["key"]).replace("/", "_")


def _points(text: str) -> Any:
    try:
        return parse_points(text)
    except DataError:
        return []


def _image(sample: Sample) -> Any:
    media = media_of(sample)
    member = media[0].media if len(media) > 1 else image_member(sample.members, sample.where)
    return read_image(bytes(sample.members[member]), sample.where, 1 << 30)
