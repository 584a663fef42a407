"""The captioning objective: shifted labels, EOS learned, padding masked, losses weighted by token."""

import io

import pytest
import torch
from PIL import Image

from glassworks.config.data import LossOptions
from glassworks.data.reading.dataset import Sample
from glassworks.errors import DataError
from glassworks.models.losses import IGNORED
from glassworks.models.settings.captioner import Captioner as ModelConfig
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_transformer import VisionTransformer
from glassworks.report.page import Section
from glassworks.report.reading import Run, read_artefact
from glassworks.tasks.captioning.task import CaptioningTask

MODEL = ModelConfig(
    encoder=VisionTransformer(image_size=16, patch_size=8, width=16, depth=1, heads=2),
    decoder=TextDecoder(width=16, depth=1, heads=2, max_tokens=10),
)


class Letters:
    """One token per letter."""

    pad, bos, eos, size = 0, 1, 2, 40

    def encode(self, text: str, max_tokens: int) -> list[int]:
        return [self.bos, *(ord(letter) - ord("a") + 3 for letter in text), self.eos][:max_tokens]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text, len(text) + 2) for text in texts]


def sample(text: str, key: str = "k", size: int = 16) -> Sample:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (10, 200, 30)).save(file, "PNG")
    return Sample(
        key, {"png": memoryview(file.getvalue()), "json": memoryview(text.encode())}, f"train-00000.tar: {key}"
    )


@pytest.fixture
def task() -> CaptioningTask:
    return CaptioningTask(MODEL, Letters())


def batch(task, *captions):
    return task.collate(
        [task.example(sample(f'{{"captions": ["{caption}"]}}'), LossOptions(), 0) for caption in captions]
    )


def test_defect_004_2_the_first_token_is_trained_from_bos_and_the_last_to_end(task):
    """The document trains on captions without BOS, and generates from it."""
    made = batch(task, "ab", "abcd")
    assert made.inputs.tolist() == [[1, 3, 4, 0, 0], [1, 3, 4, 5, 6]]
    assert made.targets.tolist() == [[3, 4, 2, IGNORED, IGNORED], [3, 4, 5, 6, 2]]


def test_defect_004_6_no_image_is_turned_or_mirrored_beside_its_caption(task):
    """The document rotates and flips images whose captions say left and right."""
    file, pixels = io.BytesIO(), bytes(range(256)) * 3
    Image.frombytes("RGB", (16, 16), pixels).save(file, "PNG")
    members = {"png": memoryview(file.getvalue()), "json": memoryview(b'{"captions": ["ab"]}')}
    for seed in range(20):
        image = task.example(Sample("k", members, "here"), LossOptions(), seed).image
        assert image.permute(1, 2, 0).numpy().tobytes() == pixels


def test_padding_changes_no_loss(task):
    torch.manual_seed(0)
    model = task.build().eval()
    losses = [task.loss(model, batch(task, *texts)) for texts in (["ab"], ["abcdef"], ["ab", "abcdef"])]
    assert [loss.weight for loss in losses] == [3, 7, 10]
    torch.testing.assert_close(losses[2].total, losses[0].total + losses[1].total)


def test_the_loss_is_a_sum_and_its_weight_the_number_of_target_tokens(task):
    torch.manual_seed(0)
    model = task.build().eval()
    parts = [task.loss(model, batch(task, caption)) for caption in ("ab", "abcdef")]
    whole = task.loss(model, batch(task, "ab", "abcdef"))
    assert whole.weight == sum(part.weight for part in parts) == 10
    torch.testing.assert_close(whole.total, sum(part.total for part in parts))


def test_a_loss_weight_scales_the_loss_of_its_row_and_not_its_weight(task):
    torch.manual_seed(0)
    model = task.build().eval()
    examples = [
        task.example(sample(f'{{"captions": ["{caption}"]}}'), LossOptions(loss_weight=factor), 0)
        for caption, factor in (("ab", 0.5), ("abcdef", 1.0))
    ]
    assert task.collate(examples[1:]).loss_weights is None
    whole = task.loss(model, task.collate(examples))
    first, second = (task.loss(model, batch(task, caption)) for caption in ("ab", "abcdef"))
    assert whole.weight == 10
    torch.testing.assert_close(whole.total, 0.5 * first.total + second.total)


def test_which_caption_is_used_depends_on_the_seed_alone(task):
    text = '{"captions": ["a", "b", "c"]}'
    chosen = [task.example(sample(text), LossOptions(), seed).ids[1] for seed in range(6)]
    assert chosen == [3, 4, 5, 3, 4, 5]


def test_an_image_of_another_size_is_resized(task):
    assert task.example(sample('{"captions": ["a"]}', size=50), LossOptions(), 0).image.shape == (3, 16, 16)


@pytest.mark.parametrize("text", ["{}", '{"captions": []}', '{"captions": [" "]}'])
def test_a_sample_without_a_caption_is_named(task, text):
    with pytest.raises(DataError, match=r"train-00000\.tar: cat7: no caption"):
        task.example(sample(text, "cat7"), LossOptions(), 0)


def test_captions_that_lose_their_end_are_counted(task):
    """Ten ids hold BOS, eight letters and EOS."""
    captions = ["abcdefgh", "abcdefghi", "ab", "abcdefghijklm"]
    assert task.count_cut([sample(f'{{"captions": ["{caption}"]}}') for caption in captions]) == (4, 2)


def test_training_says_how_many_captions_lose_their_end_and_the_report_repeats_it(project, write_image, capfd):
    lines = ["file,caption"]
    for number in range(16):
        write_image(project.root / f"d/{number}.png", seed=number)
        lines.append(f"{number}.png,{'a long row of words ' * 3 if number < 3 else 'short'}{number}")
    (project.root / "d/captions.csv").write_text("\n".join(lines))
    splits = {"validation": 0.0, "test": 0.0}
    params = {"datasets": {"d": {"source": "folder", "path": "d", "splits": splits}}}
    network = {"width": 16, "depth": 1, "heads": 2}
    encoder = {"image_size": 16, "patch_size": 8, **network}
    experiment = {
        "task": "captioning",
        "data": {"dataset": "d", "tokenizer": {"kind": "characters"}},
        "model": {"encoder": encoder, "decoder": {**network, "max_tokens": 12}},
        "optimization": {"warmup_steps": 0},
        "training": {"steps": 1, "batch_size": 4, "validate_every": 1},
    }
    project.configure(params, tiny=experiment)
    for stage in ("fetch-d", "records-d", "shards-d", "tokenizer-tiny"):
        project.run(stage)
    trained = read_artefact("train-tiny", project.run("train-tiny"))
    assert (trained.counts["captions"], trained.counts["cut_captions"]) == (16, 3)
    warning = "warning: train-tiny: 3 of 16 training captions have more than max_tokens and lose their end"
    assert warning in capfd.readouterr().err
    (caution,) = Section(Run("tiny", {}, trained)).cautions
    assert caution.startswith("3 of 16 training captions are longer than the model's max_tokens")
