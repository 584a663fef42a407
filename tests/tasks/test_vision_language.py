"""Vision-language modelling from messages with images to loss, gradients and answers: packed rows are the samples alone, and images are only where they belong."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassworks.config.clips import Clips
from glassworks.config.continuation import merge_shapes
from glassworks.config.packing import (
    FRAME_END,
    FRAME_PATCH,
    FRAME_START,
    IMAGE_PATCH,
    IMAGE_START,
    TILE_COLUMN,
    TILE_PATCH,
    TILES_END,
    TILES_START,
    Images,
    Packing,
)
from glassworks.config.tiles import Tiles
from glassworks.data.messages import Medium, Message, Size, as_json
from glassworks.data.reading.clips import sizes_of
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.image_rows import ImageRows, answer_weights, by_kind
from glassworks.data.reading.packing import arrange
from glassworks.data.reading.pictures import crop_windows, media_of, pictures_of, windows_of
from glassworks.data.reading.tokens import image_chat, picture_ids, prompt_of, render
from glassworks.errors import ArtifactError, DataError
from glassworks.generation.decoding import answer
from glassworks.generation.settings import Decoding
from glassworks.models.losses import next_token_losses
from glassworks.models.settings.connector import Connector
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_language import VisionLanguage
from glassworks.tasks.vision_language.settings import VisionOptions
from glassworks.tasks.vision_language.task import VisionLanguageTask

from .test_packed_documents import ROW, Letters, Samples, apart, conversation

GRID, WIDTH = 3, 6
DECODER = {"width": 32, "depth": 2, "heads": 4, "max_tokens": ROW}
LLAMA = {"position": "rotary", "norm": "rms", "feed_forward": "swiglu", "kv_heads": 2, "biases": "qkv"}
SHAPES = {
    "attention": VisionLanguage(
        grid=GRID, decoder=TextDecoder(**DECODER, **LLAMA), connector=Connector(heads=2, positions=True, norm=True)
    ),
    "clips": VisionLanguage(
        grid=GRID,
        decoder=TextDecoder(**DECODER, **LLAMA),
        connector=Connector(heads=2, positions=True, norm=True, video_window=3),
    ),
    "tiles": VisionLanguage(
        grid=4,
        decoder=TextDecoder(**DECODER, **LLAMA),
        connector=Connector(heads=2, positions=True, norm=True, tile_window=2),
    ),
    "linear, causal": VisionLanguage(
        grid=GRID, decoder=TextDecoder(**DECODER), connector=Connector(kind="linear"), image_attention="causal"
    ),
    "windowed decoder": VisionLanguage(
        grid=GRID, decoder=TextDecoder(**DECODER, **LLAMA, window=9), connector=Connector(heads=2)
    ),
}
CLIPS = Clips(frames=3, rate=1)
TILES = Tiles(most=2, margin=1)
"""For a grid of 4 patches of 10 pixels: an image of 40 x 40 pixels has one crop, one of 60 x 40 two of them."""
SIGNS = ". 0123456789"


class Symbols(Letters):
    """Letters, and the signs of times."""

    def encode_parts(self, texts):
        return [
            [
                28 + SIGNS.index(sign) if sign in SIGNS else super(Symbols, self).encode_parts([sign])[0][0]
                for sign in text
            ]
            for text in texts
        ]


LIMITS = {torch.float32: 1e-6, torch.float64: 1e-13}
FLAT = VisionOptions(answer_weights="flat")


class Stored:
    """Features of the samples of `contents`: a function of the number of the sample. A sample has as many pictures as its record says."""

    def __init__(self, numbers, samples=None, task=None):
        self.numbers, self.samples, self.task = numbers, samples, task

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(self.numbers[index])
        several = () if self.samples is None else self.samples.pictures(index, self.task.packing.images)
        patches = (GRID if self.task is None else self.task.shape.grid) ** 2
        return f"k{index}", {"features": torch.randn(*several, patches, WIDTH, generator=generator)}


class Sized(Samples):
    """Samples whose clips are of the size that the name of their member says: 5.webp has 5 frames in 5 seconds. So are images: 60x40.png."""

    def __getitem__(self, index):
        sample, content = super().__getitem__(index), self.contents[index]
        parts = [] if isinstance(content, str) else [part for message in content for part in message.parts]
        media = [part for part in parts if isinstance(part, Medium)]
        sizes = {one.media: clip_size(one.media) if one.type == "video" else image_size(one.media) for one in media}
        stored = {**sample.json(), "sizes": as_json(sizes)}
        return dataclasses.replace(sample, members={"json": memoryview(json.dumps(stored).encode())})

    def pictures(self, index, images):
        sample = self[index]
        ids = [picture_ids(medium, "", images, sizes_of(sample)) for medium in media_of(sample)]
        kinds = [kind for one in ids for kind in pictures_of(one, images.tiles).kinds]
        return [] if kinds in ([], ["image"]) else [len(kinds)]


def image_size(member):
    width, height = map(int, member.removesuffix(".png").split("x")) if "x" in member else (40, 40)
    return Size(kind="image", width=width, height=height)


def clip_size(member):
    return Size(kind="video", frames=int(member[0]), seconds=int(member[0]))


def picture(message="png"):
    return Message(role="user", content=[Medium(type="image", media=message)])


def clip(member="5.webp"):
    return Message(role="user", content=[Medium(type="video", media=member)])


def together(*names):
    """A message with several images, or clips."""
    kinds = ["video" if name.endswith("webp") else "image" for name in names]
    media = [Medium(type=kind, media=name) for kind, name in zip(kinds, names, strict=True)]
    return Message(role="user", content=media)


def pictured(messages):
    return [picture(), *messages]


def task_of(shape, **packing):
    found = Packing(row_tokens=ROW, images=shape.images(CLIPS, TILES, 40), **packing)
    return VisionLanguageTask(shape, Symbols(), found, {"width": WIDTH, "tokens": shape.grid**2})


def rows_of(task, contents, numbers=None):
    samples = Sized(contents)
    rows = arrange(samples, task.tokenizer, task.packing, chat=image_chat(task.tokenizer, task.packing.images))
    return ImageRows(rows, Stored(list(range(len(contents))) if numbers is None else numbers, samples, task))


def built(task, dtype=torch.float32):
    torch.manual_seed(0)
    model = task.build()
    for module in model.modules():  # the scale of a trained model
        if isinstance(module, torch.nn.Embedding):
            module.weight.data.mul_(25)
    for parameter in model.connector.parameters():
        parameter.data.mul_(6)
    return model.to(dtype).eval()


def loss_and_gradients(task, model, contents, numbers=None, options=FLAT):
    rows = rows_of(task, contents, numbers)
    model.zero_grad()
    total = weight = 0.0
    for start in range(0, len(rows), 2):
        examples = [task.example(rows[index], options, 0) for index in range(start, min(start + 2, len(rows)))]
        loss = task.loss(model, task.collate(examples))
        loss.total.backward()
        total, weight = total + loss.total.item(), weight + loss.weight
    return total, weight, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, len(rows)


short = conversation().filter(lambda messages: sum(len(one.content) + 2 for one in messages) <= 64)
"""Conversations that fit into a row with an image or a clip."""
trees = short.map(pictured)
few = conversation().filter(lambda messages: sum(len(one.content) + 2 for one in messages) <= 32)
several = st.builds(
    lambda names, apart, messages: [*([*map(picture, names)] if apart else [together(*names)]), *messages],
    st.lists(st.sampled_from(["png", "60x40.png", "40x90.png"]), min_size=2, max_size=2),
    st.booleans(),
    few,
)
clips = st.builds(lambda frames, messages: [clip(f"{frames}.webp"), *messages], st.integers(1, 5), short)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", SHAPES)
@given(data=st.data(), most=st.sampled_from([None, 2]))
@settings(max_examples=5, derandomize=True)
def test_packed_rows_with_images_and_clips_have_the_loss_and_the_gradients_of_the_samples_alone(
    name, dtype, data, most
):
    kinds = [st.text("abcdefgh", min_size=1, max_size=30), trees, several, *([clips] if name == "clips" else [])]
    contents = data.draw(st.lists(st.one_of(kinds), min_size=6, max_size=8))
    task, single = task_of(SHAPES[name], documents_per_row=most), task_of(SHAPES[name], documents_per_row=1)
    model = built(task, dtype)
    parts = [list(apart([content])) for content in contents]
    numbers = [number for number, part in enumerate(parts) for _ in part]
    packed = loss_and_gradients(task, model, contents)
    alone = loss_and_gradients(single, model, [one for part in parts for one in part], numbers)
    assert packed[3] < alone[3] and packed[1] == alone[1]
    assert abs(packed[0] - alone[0]) <= LIMITS[dtype] * abs(alone[0])
    if any(not isinstance(content, str) for content in contents):
        assert (
            alone[2]["connector.project.w2.weight" if "linear" not in name else "connector.project.weight"].norm() > 0
        )
    whole = torch.cat([gradient.flatten() for gradient in alone[2].values()]).norm()
    for parameter, gradient in alone[2].items():
        difference = (packed[2][parameter] - gradient).norm()  # the gradient of a bias of keys is 0 but for rounding
        assert difference <= LIMITS[dtype] * max(gradient.norm(), whole / 30), (parameter, difference, whole)


def asked(*branches, context=()):
    """A picture with a question and an answer in each branch."""
    found = [picture(), *context]
    for number, (question, reply) in enumerate(branches, start=1):
        found.append(Message(role="user", content=question, branch=number))
        found.append(Message(role="assistant", content=reply, branch=number))
    return found


def batch_of(task, contents, numbers=None):
    rows = rows_of(task, contents, numbers)
    return task.collate([task.example(rows[index], FLAT, 0) for index in range(len(rows))])


@torch.no_grad()
def test_defect_000_5_exchanged_images_change_the_loss_and_only_that_of_their_own_documents():
    task = task_of(SHAPES["attention"])
    model, contents = built(task), [asked(("ab", "cd")), asked(("ab", "ef")), "sometext"]
    losses = []
    for numbers in ([0, 1, 2], [1, 0, 2], [0, 5, 2]):
        batch = batch_of(task, contents, numbers)
        logits = model(batch.inputs, *batch.layout, batch.features, batch.places)
        found = next_token_losses(logits, batch.targets)[0]
        losses.append([found[batch.documents[0] == number].sum().item() for number in range(3)])
    assert losses[0][0] != losses[1][0] and losses[0][1] != losses[1][1], "exchanged"
    assert losses[0][0] == losses[2][0] and losses[0][1] != losses[2][1], "only the second picture is another"
    assert losses[0][2] == losses[1][2] == losses[2][2]


def test_a_frame_of_a_clip_is_its_time_and_its_patches_between_special_tokens():
    """Of five frames in five seconds at most three are seen: at 0, 2 and 4 seconds. 3 x 3 patches in a window of 3 x 3 are one token."""
    task = task_of(SHAPES["clips"])
    model, tree = built(task), [clip(), *asked(("ab", "c"))[1:]]
    batch = batch_of(task, [tree, asked(("ab", "c"))])
    row = batch.inputs[0].tolist()
    zero, point, space = 30, 28, 29
    for number, second in enumerate((0, 2, 4)):
        frame = row[1 + 7 * number :][:7]
        assert frame == [zero + second, point, zero, space, FRAME_START, FRAME_PATCH, FRAME_END]
    assert row[22] == Letters.eos and batch.frames.shape == (3, GRID**2, WIDTH) and batch.features.shape[0] == 1
    x = model.inputs(batch.inputs, batch.features, batch.places, batch.frames, batch.frame_places)["inputs"]
    tokens = model.connector(batch.frames, video=True)
    torch.testing.assert_close(x[0, [6, 13, 20]], model.special_frames.weight[1] + tokens[:, 0])
    assert not task.collate([task.example(rows_of(task, ["text"])[0], FLAT, 0)]).frames.numel()
    with pytest.raises(DataError, match=r"^0 patch tokens in the rows, but 3 frames of 1 tokens each; pack the data"):
        model.inputs(torch.zeros(1, 4, dtype=torch.long), frames=batch.frames)
    prompt = prompt_of(tree[:-1], task.tokenizer, "", task.packing.images, {"5.webp": clip_size("5.webp")})
    assert prompt[:-3] == row[: len(prompt) - 3]
    unknown = [clip("x.webp"), *tree[1:]]
    with pytest.raises(DataError, match=r"^where: the record of a clip needs its sizes with frames and seconds$"):
        render(unknown, task.tokenizer, "where", task.packing.images)


@torch.no_grad()
def test_tiles_follow_their_image_and_their_tokens_are_the_windows_of_the_crops():
    """Images of one and of two crops of 4 x 4 patches with margins of 1: 2 x 2 and 2 x 3 tokens, in rows that end with a column."""
    task = task_of(SHAPES["tiles"])
    model, tree = built(task), [together("png", "60x40.png"), *asked(("ab", "c"))[1:]]
    batch = batch_of(task, [tree])
    row = batch.inputs[0].tolist()
    image = [IMAGE_START, *[IMAGE_PATCH] * 4, -3]
    tiles = [[TILES_START, *[*[TILE_PATCH] * columns, TILE_COLUMN] * 2, TILES_END] for columns in (2, 3)]
    assert row[:33] == [0, *image, *tiles[0], *image, *tiles[1], 1, 2]
    assert batch.features.shape == (2, 16, WIDTH) and batch.tiles.shape == (3, 16, WIDTH)
    stored = Stored([0], Sized([tree]), task)[0][1]["features"]
    assert torch.equal(batch.features, stored[[0, 2]]) and torch.equal(batch.tiles, stored[[1, 3, 4]]), "in token order"
    pictures = (batch.tiles, batch.tile_windows, batch.tile_places)
    x = model.inputs(batch.inputs, batch.features, batch.places, None, None, *pictures)["inputs"]
    crops = task.packing.images.tiles.crops
    alone = [
        model.connector.tiles(batch.tiles[part], torch.tensor(crop_windows(crops, 2, tiling).tolist()))
        for part, tiling in ((slice(0, 1), crops.tiling(40, 40)), (slice(1, 3), crops.tiling(60, 40)))
    ]
    assert [len(one) for one in alone] == [4, 6] and batch.tile_windows.shape == (10, 4)
    patches = torch.tensor(row) == TILE_PATCH
    torch.testing.assert_close(x[0, patches], model.special_tiles.weight[1] + torch.cat(alone))
    ends = torch.tensor(row) == TILE_COLUMN
    assert (x[0, ends] == model.special_tiles.weight[2]).all() and int(ends.sum()) == 4
    with pytest.raises(DataError, match=r"^10 patch tokens of crops in the rows, but crops of 0; pack the data again$"):
        model.inputs(batch.inputs, batch.features, batch.places)
    unknown = render_fault(lambda: render(tree, task.tokenizer, "where", task.packing.images))
    assert (
        unknown == "where: the record of the image 'png' needs its sizes with width and height, by which tiles are cut"
    )
    fewer = rows_of(task, [tree])[0]
    fewer = dataclasses.replace(fewer, features=[fewer.features[0][:4]])
    assert render_fault(lambda: task.collate([task.example(fewer, FLAT, 0)])).startswith(
        "the tokens have 5 images, crops and frames, but the features 4; "
    )


def render_fault(call):
    with pytest.raises(DataError) as refused:
        call()
    return str(refused.value)


@pytest.mark.parametrize("name", ["attention", "tiles"])
@torch.no_grad()
def test_exchanged_images_of_one_sample_change_its_loss_and_no_other(name):
    task = task_of(SHAPES[name])
    model, losses = built(task), []
    batch = batch_of(task, [[together("png", "40x40.png"), *asked(("ab", "cd"))[1:]], asked(("ab", "cd"))])
    for order in ([0, 1, 2], [1, 0, 2]):
        seen = {"tile_windows": batch.tile_windows, "tile_places": batch.tile_places, "ends": (task.tokenizer.eos,)}
        tiles = None if batch.tiles is None else batch.tiles[order]
        logits = model(batch.inputs, *batch.layout, batch.features[order], batch.places, tiles=tiles, **seen)
        found = next_token_losses(logits, batch.targets)[0]
        losses.append([found[batch.documents[0] == number].sum().item() for number in (0, 1)])
    assert losses[0][0] != losses[1][0] and losses[0][1] == losses[1][1]


@torch.no_grad()
def test_an_image_after_an_answer_shows_it_to_no_image_before_it():
    """Image, question, answer, image and text, answer: the first answer does not change the logits before it, nor does the second image. Images of one
    message see each other.
    """
    task, say = task_of(SHAPES["attention"]), lambda role, text: Message(role=role, content=text)
    model = built(task)
    later = Message(role="user", content=[Medium(type="image", media="1.png"), *say("user", "ab").parts])
    batch = batch_of(task, [[picture(), say("user", "ab"), say("assistant", "cdef"), later, say("assistant", "gh")]])
    answer_at = int((batch.inputs[0] == 4).nonzero()[0])

    def hidden(ids, features):
        return model.hidden(ids, *batch.layout, features, batch.places, ends=(task.tokenizer.eos,))[0]

    changed, other = batch.inputs.clone(), batch.features.clone()
    changed[0, answer_at] = 9
    other[1] = 0
    first = hidden(batch.inputs, batch.features)
    for second in (hidden(changed, batch.features), hidden(batch.inputs, other)):
        assert torch.equal(first[:answer_at], second[:answer_at]) and not torch.equal(first, second)
    both = batch_of(task, [[together("png", "1.png"), *asked(("ab", "c"))[1:]]])
    one, two = (
        model.hidden(both.inputs, *both.layout, features, both.places, ends=(task.tokenizer.eos,))[0, 2]
        for features in (both.features, both.features * torch.tensor([1.0, 0.0])[:, None, None])
    )
    assert not torch.equal(one, two), "the first patch of the first image"


def test_features_are_added_to_the_embedding_of_the_patch_token():
    task = task_of(SHAPES["attention"])
    model = built(task)
    batch = batch_of(task, [asked(("ab", "c"))])
    x = model.inputs(batch.inputs, batch.features, batch.places)["inputs"]
    tokens = model.connector(batch.features)[0]
    patches = batch.inputs[0] == IMAGE_PATCH
    assert batch.inputs[0, :8].tolist() == [0, -1, -2, -2, -2, -2, -3, 1]
    torch.testing.assert_close(x[0, patches], model.special.weight[1] + tokens)
    torch.testing.assert_close(x[0, 1], model.special.weight[0])
    torch.testing.assert_close(x[0, 7], model.decoder.tokens.weight[1])


@torch.no_grad()
def test_image_tokens_see_each_other_in_both_directions_unless_switched_off():
    """The last patch changes the first token of the image with the switch on, and not with it off."""
    for attention, changes in (("bidirectional", True), ("causal", False)):
        task = task_of(SHAPES["attention"].model_copy(update={"image_attention": attention}))
        model, batch = built(task), batch_of(task, [asked(("ab", "c"))])
        other = batch.features.clone()
        other[0, -1] = torch.randn(WIDTH)
        first, second = (
            model.hidden(batch.inputs, *batch.layout, features, batch.places)[0] for features in (batch.features, other)
        )
        assert (first[1] != second[1]).any() == changes
        assert (first[0] == second[0]).all(), "BOS is no image token"


@torch.no_grad()
def test_class_tokens_are_dropped():
    shape = SHAPES["attention"]
    model = built(task_of(shape))
    tower = {"width": WIDTH, "tokens": GRID**2 + 1}
    other = VisionLanguageTask(shape, Symbols(), task_of(shape).packing, tower).build().eval()
    other.load_state_dict(model.state_dict())
    assert (model.class_tokens, other.class_tokens) == (0, 1)
    batch = batch_of(task_of(shape), [asked(("ab", "c"))])
    longer = torch.cat([torch.randn(1, 1, WIDTH), batch.features], dim=1)
    one = model(batch.inputs, *batch.layout, batch.features, batch.places)
    assert torch.equal(one, other(batch.inputs, *batch.layout, longer, batch.places))
    with pytest.raises(
        ArtifactError,
        match=r"^model\.grid: the tower gives 16 tokens an image, and a grid of 3 by 3 patches has 9; set it to 4$",
    ):
        VisionLanguageTask(shape, Symbols(), task_of(shape).packing, {"width": WIDTH, "tokens": 16}).build()


def test_a_count_of_placeholders_that_does_not_fit_is_one_line():
    task = task_of(SHAPES["attention"])
    model, batch = built(task), batch_of(task, [asked(("ab", "c"))])
    with pytest.raises(
        DataError, match=r"^4 patch tokens in the rows, but 2 images of 4 tokens each; pack the data again$"
    ):
        model(batch.inputs, *batch.layout, batch.features.repeat(2, 1, 1), batch.places)
    narrow = task_of(SHAPES["linear, causal"])
    rows = rows_of(task, [asked(("ab", "c"))])
    with pytest.raises(DataError, match=r"^the row of 'k0' has 4 patch tokens for 1 images of 9; pack the data again$"):
        narrow.collate([narrow.example(rows[0], FLAT, 0)])


def test_a_row_of_texts_never_runs_the_tower():
    class Forbidden:
        def read(self, sample):
            raise AssertionError("the tower was run")

        features = pictures = read

    shape = SHAPES["attention"]
    task = VisionLanguageTask(
        shape, Symbols(), task_of(shape).packing, {"width": WIDTH, "tokens": 9}, in_loop=Forbidden()
    )
    model = built(task)
    rows = ImageRows(rows_of(task, ["text", "another"]).rows, None)
    task.loss(model, task.collate([task.example(rows[0], FLAT, 0)])).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), (
        "every parameter has a gradient, 0 at least"
    )
    assert not model.connector.project.w2.weight.grad.any()
    pictures = ImageRows(rows_of(task, [asked(("ab", "c"))]).rows, None)
    with pytest.raises(AssertionError, match="the tower was run"):
        task.example(pictures[0], FLAT, 0)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_answers_from_the_cache_are_those_of_the_full_forward_pass(name):
    """Prompts of different lengths in one batch, one without an image."""
    task = task_of(SHAPES[name])
    model = built(task)
    trees = [asked(("abc", "d")), asked(("abcdefgh", "d"))]
    trees.append([together("60x40.png", "40x90.png"), *trees[0][1:]])
    if name == "clips":
        trees.append([together("5.webp", "png", "2.webp"), *trees[0][1:]])
    prompts, seen = prompts_of(task, trees)
    found = answer(model, [*prompts, [0, 5, 6]], settings=Decoding(max_new_tokens=12), ends=None, **seen)
    for number, ids in enumerate(found):
        assert len(ids) == 12
        [prompt], own = ([[0, 5, 6]], {}) if number == len(trees) else prompts_of(task, [trees[number]], [number])
        row = torch.tensor([prompt + ids])
        logits = model(row, torch.zeros_like(row), **own)[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == ids
        alone = answer(model, [prompt], settings=Decoding(max_new_tokens=12), ends=None, **{"features": None, **own})
        assert alone[0] == ids


def prompts_of(task, trees, numbers=None):
    """The prompts of the questions of some trees, and the arguments of the model with their pictures."""
    samples, images = Sized(trees), task.packing.images
    stored = Stored(numbers or range(len(trees)), samples, task)
    prompts = [
        prompt_of(tree[:-1], task.tokenizer, "", images, sizes_of(samples[index])) for index, tree in enumerate(trees)
    ]
    pictures = [pictures_of(prompt, images.tiles) for prompt in prompts]
    features = [stored[index][1]["features"] for index in range(len(trees))]
    found = by_kind(features, [kind for one in pictures for kind in one.kinds])
    seen = {"features": found["image"], "frames": found["frame"], "tiles": found["tile"]}
    if images.tiles:
        tilings = [tiling for one in pictures for tiling in one.tilings]
        seen["tile_windows"] = torch.from_numpy(windows_of(tilings, images.tiles))
    return prompts, seen


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([*asked(("a", "b")), picture().model_copy(update={"branch": 1})], "where: branch 1 holds the image 'png'; put it into the context (branch 0)"),
        ([Message(role="assistant", content=picture().content * 2)], "where: a message with a loss holds 2 images or clips, which would show each other its text; put them into a message before it"),
        ([Message(role="user", content=[Medium(type="audio", media="mp3")])], "where: holds the audio 'mp3', and this task reads images and clips"),
        ([clip()], "where: holds the video '5.webp', and this model reads images; set model.connector.video_window, and clips of its encoder"),
    ],
)  # fmt: skip
def test_media_that_do_not_fit_are_one_line(messages, line):
    with pytest.raises(DataError) as refused:
        render(messages, Symbols(), "where", Images(tokens=1))
    assert str(refused.value) == line
    with pytest.raises(DataError, match="a message holds media, and this task reads texts only"):
        render(asked(("a", "b")), Symbols(), "where")


def test_a_prompt_is_the_beginning_of_its_row():
    task, tree = task_of(SHAPES["attention"]), asked(("abc", "de"), ("f", "gh"))
    row = rows_of(task, [tree])[0]
    prompt = prompt_of([tree[0], tree[3]], task.tokenizer, "", task.packing.images)
    context = row.inputs[row.branches == 0].tolist()  # the last one predicts the first token of every branch
    branch = row.targets[row.branches == 2].tolist()
    assert [*context, row.inputs[row.branches == 1][0], *branch][: len(prompt)] == prompt


def test_an_image_that_does_not_fit_into_a_row_is_one_line():
    task = task_of(SHAPES["attention"])
    task.packing = task.packing.model_copy(update={"row_tokens": 8})
    with pytest.raises(
        DataError, match=r"^sample 0, a context of 7 and branches of 6: 13 tokens, and a row has room for 8 tokens; "
    ):
        rows_of(task, [asked(("ab", "cd"))])


def test_rows_have_limits_of_tokens_and_of_images():
    contents = [asked(("ab", "cd")) for _ in range(3)] + ["text"] * 3
    task = task_of(SHAPES["attention"])
    assert len(rows_of(task, contents)) == 2  # shards of three
    task.packing = task.packing.model_copy(update={"images": Images(tokens=4, per_row=2)})
    rows = rows_of(task, contents)
    assert sorted(len(rows[index].pictured) for index in range(len(rows))) == [0, 1, 2]


def test_every_crop_counts_as_an_image_of_the_row():
    task, tree = task_of(SHAPES["tiles"]), [picture("60x40.png"), *asked(("ab", "c"))[1:]]
    task.packing = task.packing.model_copy(update={"images": task.packing.images.model_copy(update={"per_row": 5})})
    assert len(rows_of(task, [tree] * 2)) == 2, "three pictures each"
    task.packing = task.packing.model_copy(update={"images": task.packing.images.model_copy(update={"per_row": 2})})
    with pytest.raises(DataError, match=r"3 images, and a row has room for 96 tokens and 2 images"):
        rows_of(task, [tree])
    with pytest.raises(ValueError, match="tile_window: linear projects windows of one size"):
        Connector(kind="linear", tile_window=2)


def test_a_clip_counts_with_all_its_frames_and_is_never_cut():
    task, trees = task_of(SHAPES["clips"]), [[clip("2.webp"), *asked(("ab", "c"))[1:]]] * 3
    assert len(rows_of(task, trees)) == 1
    task.packing = task.packing.model_copy(update={"images": task.packing.images.model_copy(update={"per_row": 4})})
    assert [len(rows_of(task, trees)[index].pictured) for index in range(2)] == [2, 1]
    task.packing = task.packing.model_copy(update={"images": task.packing.images.model_copy(update={"per_row": 1})})
    with pytest.raises(DataError, match=r"2 images, and a row has room for 96 tokens and 1 images"):
        rows_of(task, trees)
    with pytest.raises(ValueError, match="video_window: linear projects windows of one size"):
        Connector(kind="linear", video_window=3)


@pytest.mark.parametrize("pad", [Letters.eos, 4], ids=["EOS", "a letter"])
def test_defect_000_6_the_target_is_the_next_token_and_padding_is_masked_by_position(pad):
    """The document compares logits with unshifted labels, and ignores every target that has the id of padding."""
    task = task_of(SHAPES["attention"])
    task.tokenizer = Symbols()
    task.tokenizer.pad = pad
    batch = batch_of(task, [asked(("ab", "cde"))])
    answered = batch.targets[0] >= 0
    assert batch.inputs[0, answered].tolist() == [Letters.eos, 4, 5, 6]
    assert batch.targets[0, answered].tolist() == [4, 5, 6, Letters.eos], "c, d, e and EOS, whichever pads"
    assert (batch.inputs[0, int(answered.nonzero().max()) + 1 :] == pad).all(), "padding follows, without a target"


def test_defect_000_9_answers_weigh_by_the_root_of_their_length_and_pointing_as_published():
    """The document weighs pointing by 2 and captions by 1. Answers of 1 + EOS and 8 + EOS tokens in a tree of two, a conversation, and 0.2 for pointing."""
    contents = [asked(("ab", "c"), ("ab", "cdefghij")), [picture(), *asked(("ab", "cde"))[1:]]]
    task = task_of(SHAPES["attention"])
    row = rows_of(task, contents)[0]
    weights = answer_weights(row, roots=True, kinds={})
    here = [weights[(row.documents == d) & (row.branches == b)] for d, b in ((0, 0), (0, 1), (0, 2), (1, 1))]
    assert not here[0].any()
    for found, count, branches in ((here[1], 2, 2), (here[2], 9, 2), (here[3], 4, 1)):
        expected = 2 / np.sqrt(count) / np.sqrt(branches)
        np.testing.assert_allclose(found[found > 0], [expected] * count, rtol=1e-6)
    assert (answer_weights(row, roots=False, kinds={}) == row.weights).all()

    questions = [[{"kind": "count"}, {"kind": "where"}], []]
    samples = [
        Sample(f"k{number}", {"json": memoryview(json.dumps({"labels": {"questions": found}}).encode())}, "")
        for number, found in enumerate(questions)
    ]
    labelled = dataclasses.replace(row, samples=samples)
    some = answer_weights(labelled, roots=True, kinds={"where": 0.2})
    np.testing.assert_allclose(some[(row.documents == 0) & (row.branches == 2) & (row.weights > 0)], 0.2, rtol=1e-6)
    np.testing.assert_array_equal(some[row.branches != 2], weights[row.branches != 2])


def test_names_at_image_tokens_are_targets_with_a_weight_of_their_own():
    """By hand: cross-entropy of the connector's normalised tokens under the output layer; the sums of two micro-batches are those of one."""
    task = task_of(SHAPES["attention"])
    model, batch = built(task), batch_of(task, [asked(("ab", "c")), asked(("cd", "e"))])
    plain = task.loss(model, batch)
    task.naming = 0.5
    names = torch.tensor([[[5, 5], [6, 7], [-100, -100], [1, 1]], [[1, 1], [1, 1], [8, 8], [-100, -100]]])
    both = task.loss(model, dataclasses.replace(batch, names=names))
    tokens = model.connector(batch.features) - model.connector.positions
    logits = torch.nn.functional.rms_norm(tokens, tokens.shape[-1:]) @ model.decoder.head_weight.T
    expected = sum(next_token_losses(logits, names[..., word]).sum() for word in range(2)) / 2
    torch.testing.assert_close(both.total - plain.total, 0.5 * expected)
    assert both.weight == plain.weight + 0.5 * 6
    assert both.parts["naming"][1] == 3
    assert both.parts["naming"][0].item() == pytest.approx(0.5 * expected.item())
    one, two = (model.name(batch.features[[place]], names[[place]], 0.5).total for place in (0, 1))
    torch.testing.assert_close((one + two).detach(), both.parts["naming"][0])


def test_with_similarity_a_token_attends_to_tokens_like_it_from_the_first_step():
    """The score of equal inputs is the share of that of a query with itself; the keys keep their variance, and nothing else changes."""
    plain = SHAPES["attention"].model_copy(update={"decoder": TextDecoder(**DECODER)})
    torch.manual_seed(0)
    without = task_of(plain).build().decoder.blocks[1].attention.qkv.weight.chunk(3)
    torch.manual_seed(0)
    found = (
        task_of(plain.model_copy(update={"similarity": 0.7})).build().decoder.blocks[1].attention.qkv.weight.chunk(3)
    )
    assert torch.equal(without[0], found[0]) and torch.equal(without[2], found[2])
    query, key, old = found[0], found[1], without[1]
    assert abs((query * key).sum().item() / query.square().sum().item() - 0.7) < 0.1
    assert abs((query * old).sum().item() / query.square().sum().item()) < 0.1
    assert key.std().item() == pytest.approx(old.std().item(), rel=0.1)
    with pytest.raises(ValueError, match="similarity: needs a decoder that has as many kv_heads as heads"):
        VisionLanguage(decoder=TextDecoder(**DECODER, **LLAMA), similarity=0.7)


def test_defect_000_9_as_many_frames_as_the_document_names_do_not_fit_into_its_row():
    """27 x 27 patches in windows of 3 x 3 are 81 tokens, and 128 frames 10,368; the document puts them into 4,096."""
    shape = VisionLanguage(grid=27, connector=Connector(window=3), decoder=TextDecoder(**DECODER), max_tokens=4096)
    assert shape.image_tokens == 81
    assert 128 * shape.image_tokens == 10_368 > shape.row_tokens


@pytest.mark.parametrize(
    ("key", "side", "new"),
    [
        ("video_window", 3, ["special_frames.weight"]),
        ("tile_window", 2, ["special_tiles.weight"]),
    ],
)
def test_a_model_of_images_may_begin_to_read_clips_or_tiles(tmp_path, key, side, new):
    """Continued with another window, it has all its weights and new ones for frames or tiles; images give the same logits."""
    plain = SHAPES["attention"]
    shape = merge_shapes(plain.model_dump(mode="json"), {"connector": {key: side}}, "before")
    clips = VisionLanguage.model_validate(shape)
    assert clips.connector == plain.connector.model_copy(update={key: side})
    before, after, task = built(task_of(plain)), built(task_of(clips)), task_of(clips)
    before.save(tmp_path)
    task.begin = tmp_path
    matches = task.start(after, 0)
    assert matches.new == new and not matches.left_over
    assert matches.matched == len(before.state_dict())
    batch = batch_of(task_of(plain), [asked(("ab", "c"))])
    with torch.no_grad():
        one, other = (model(batch.inputs, *batch.layout, batch.features, batch.places) for model in (before, after))
    assert torch.equal(one, other)
