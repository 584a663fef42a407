"""Decoding finds what it should find, and the same for an image alone and in a batch."""

import itertools

import pytest
import torch

from glassworks.config.model import Captioner as Config
from glassworks.config.model import TextDecoder, VisionTransformer
from glassworks.generation.decoding import beam_search, greedy
from glassworks.models.captioner import Captioner

BOS, EOS, VOCABULARY, LIMIT = 1, 2, 7, 5


@pytest.fixture
def model() -> Captioner:
    torch.manual_seed(4)
    config = Config(
        encoder=VisionTransformer(image_size=8, patch_size=4, width=16, depth=1, heads=2),
        decoder=TextDecoder(width=16, depth=2, heads=2, max_tokens=LIMIT),
    )
    model = Captioner(config, VOCABULARY).eval()
    for parameter in model.parameters():
        parameter.data.mul_(6)  # sharp enough that texts differ
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def log_probability(model: Captioner, image: torch.Tensor, text: list[int], ended: bool) -> float:
    ids = torch.tensor([[BOS, *text, EOS] if ended else [BOS, *text]])
    with torch.no_grad():
        logits = model(image[None], ids[:, :-1]).log_softmax(-1)
    return logits.gather(2, ids[:, 1:, None]).sum().item()


def all_texts() -> list[list[int]]:
    words = [token for token in range(VOCABULARY) if token != EOS]
    return [list(text) for length in range(LIMIT - 1) for text in itertools.product(words, repeat=length)]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_wide_enough_finds_the_best_of_all_texts(model, images, penalty):
    for image, found in zip(images[:2], beam_search(model, images[:2], BOS, EOS, 300, penalty), strict=True):
        scores = {
            tuple(text): log_probability(model, image, text, True) / (len(text) + 1) ** penalty for text in all_texts()
        }
        assert scores[tuple(found)] == pytest.approx(max(scores.values()), abs=1e-4)


def test_greedy_takes_the_likeliest_token_each_time(model, images):
    for image, text in zip(images, greedy(model, images, BOS, EOS), strict=True):
        for length in range(len(text)):
            with torch.no_grad():
                following = model(image[None], torch.tensor([[BOS, *text[:length]]]))[0, -1].argmax().item()
            assert following == text[length]


def test_one_beam_without_length_penalty_is_greedy(model, images):
    ended = [text for text in greedy(model, images, BOS, EOS) if len(text) < LIMIT - 1]
    assert ended, "the random model should end some text"
    for text, beam in zip(greedy(model, images, BOS, EOS), beam_search(model, images, BOS, EOS, 1, 0.0), strict=True):
        if len(text) < LIMIT - 1:
            assert beam == text


@pytest.mark.parametrize(
    "decode", [lambda m, x: greedy(m, x, BOS, EOS), lambda m, x: beam_search(m, x, BOS, EOS, 3, 0.7)]
)
def test_a_text_does_not_depend_on_its_batch(model, images, decode):
    assert decode(model, images) == [decode(model, image[None])[0] for image in images]


def test_no_text_holds_eos(model, images):
    assert all(
        EOS not in text for text in greedy(model, images, BOS, EOS) + beam_search(model, images, BOS, EOS, 3, 0.7)
    )
