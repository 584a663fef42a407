"""Captions and continuations: decoding finds what it should find, and the same for a row alone and in a batch."""

import itertools

import pytest
import torch

from glassworks.errors import DataError
from glassworks.generation.cpu_step import CpuStep
from glassworks.generation.decoding import caption, generate, stream
from glassworks.generation.settings import Decoding
from glassworks.models.captioner import Captioner
from glassworks.models.language_model import LanguageModel
from glassworks.models.settings.captioner import Captioner as CaptionerConfig
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_transformer import VisionTransformer

BOS, EOS, VOCABULARY, LIMIT = 1, 2, 7, 5
SETTINGS = {
    "greedy": Decoding(max_new_tokens=12),
    "drawn": Decoding(temperature=1.0, seed=3, max_new_tokens=12),
    "limited": Decoding(temperature=1.5, top_k=9, top_p=0.9, min_p=0.05, max_new_tokens=12),
    "penalised": Decoding(repetition_penalty=1.5, max_new_tokens=12),
    "beams": Decoding(beams=3, max_new_tokens=12, repetition_penalty=1.2),
}
"""One of each kind."""
PROMPTS = [[1, 5, 9, 3], [1], [1, 30, 8, 8, 12, 4, 19], [1, 17], [1, 5, 9, 3, 3]]


@pytest.fixture
def captioner() -> Captioner:
    torch.manual_seed(4)
    config = CaptionerConfig(
        encoder=VisionTransformer(image_size=8, patch_size=4, width=16, depth=1, heads=2),
        decoder=TextDecoder(width=16, depth=2, heads=2, max_tokens=LIMIT),
    )
    return sharpened(Captioner(config, VOCABULARY), 6)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=["learned", "rotary"])
def language_model(request) -> LanguageModel:
    torch.manual_seed(6)
    rotary = {
        "position": "rotary",
        "norm": "rms",
        "feed_forward": "swiglu",
        "biases": "none",
        "heads": 4,
        "kv_heads": 2,
    }
    config = TextDecoder(width=32, depth=2, max_tokens=24, **(rotary if request.param == "rotary" else {"heads": 2}))
    return sharpened(LanguageModel(config, 40), 2.5)


def sharpened(model, factor):
    """Random weights whose texts differ from one another."""
    for parameter in model.parameters():
        parameter.data.mul_(factor)
    return model.eval()


def log_probability(model, image, text, ended):
    ids = torch.tensor([[BOS, *text, EOS] if ended else [BOS, *text]])
    with torch.no_grad():
        logits = model(image[None], ids[:, :-1]).log_softmax(-1)
    return logits.gather(2, ids[:, 1:, None]).sum().item()


def all_texts():
    words = [token for token in range(VOCABULARY) if token != EOS]
    return [list(text) for length in range(LIMIT - 1) for text in itertools.product(words, repeat=length)]


def following(model, ids):
    """The logits after `ids`, without a cache."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0, -1]


# Captions


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_wide_enough_finds_the_best_of_all_texts(captioner, images, penalty):
    found = caption(captioner, images[:2], Decoding(beams=300, length_penalty=penalty), BOS, EOS)
    for image, text in zip(images[:2], found, strict=True):
        scores = {
            tuple(text): log_probability(captioner, image, text, True) / (len(text) + 1) ** penalty
            for text in all_texts()
        }
        assert scores[tuple(text)] == pytest.approx(max(scores.values()), abs=1e-4)


def test_a_greedy_caption_takes_the_likeliest_token_each_time(captioner, images):
    texts = caption(captioner, images, Decoding(), BOS, EOS)
    assert any(texts)
    for image, text in zip(images, texts, strict=True):
        for length in range(len(text)):
            with torch.no_grad():
                likeliest = captioner(image[None], torch.tensor([[BOS, *text[:length]]]))[0, -1].argmax().item()
            assert likeliest == text[length]


@pytest.mark.parametrize("settings", [Decoding(), Decoding(beams=3), Decoding(temperature=1.0)])
def test_a_caption_does_not_depend_on_its_batch(captioner, images, settings):
    alone = [caption(captioner, image[None], settings, BOS, EOS)[0] for image in images]
    assert caption(captioner, images, settings, BOS, EOS) == alone
    assert caption(captioner, images.flip(0), settings, BOS, EOS) == alone[::-1]


def test_defect_004_5_the_image_is_encoded_once_for_all_tokens(captioner, images):
    """VisionGPT2 runs its ViT again for every generated token."""
    calls = []
    captioner.encoder.register_forward_hook(lambda *_: calls.append(1))
    assert len(caption(captioner, images, Decoding(), BOS, EOS)) == len(images)
    assert len(calls) == 1


def test_defect_004_6_every_image_of_a_batch_ends_by_itself(captioner, images):
    """VisionGPT2 compares `.item()` with EOS, which one image at a time survives."""
    texts = caption(captioner, images, Decoding(), BOS, EOS)
    assert len({len(text) for text in texts}) > 1, "the random captions should have different lengths"
    assert all(EOS not in text for text in texts)


def test_a_caption_has_at_most_the_tokens_that_its_model_allows(captioner, images):
    short = captioner.config.model_copy(update={"max_tokens": 4})
    captioner.config = short
    assert max(len(text) for text in caption(captioner, images, Decoding(min_new_tokens=3), BOS, EOS)) == 3


# Continuations


def test_greedy_equals_the_full_forward_of_each_prompt(language_model):
    """Prompts of different lengths in one batch, against one forward per token and no cache at all."""
    for prompt, text in zip(PROMPTS, generate(language_model, PROMPTS, SETTINGS["greedy"], EOS), strict=True):
        expected = []
        while len(expected) < 12 and len(prompt) + len(expected) < 24:
            token = following(language_model, [*prompt, *expected]).argmax().item()
            if token == EOS:
                break
            expected.append(token)
        assert text == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_a_text_does_not_depend_on_its_batch(language_model, name):
    alone = [generate(language_model, [prompt], SETTINGS[name], EOS)[0] for prompt in PROMPTS]
    assert len({tuple(text) for text in alone}) > 3
    assert generate(language_model, PROMPTS, SETTINGS[name], EOS) == alone
    assert generate(language_model, PROMPTS[::-1], SETTINGS[name], EOS) == alone[::-1]


@pytest.mark.parametrize("name", [name for name, one in SETTINGS.items() if one.beams == 1])
def test_a_beginning_that_is_computed_once_changes_no_text(language_model, name):
    """Prompts of different lengths after the same tokens: the padding stands between the two, and nothing sees it."""
    beginning = [1, 5, 9, 3, 30]
    prompts = [[*beginning, *prompt] for prompt in PROMPTS]
    expected = generate(language_model, prompts, SETTINGS[name], None)
    for shared in (1, len(beginning)):
        assert generate(language_model, prompts, SETTINGS[name], None, shared=shared) == expected
    assert len({tuple(text) for text in expected}) > 2


def test_the_logits_of_a_padded_prefill_and_of_every_step_after_it_are_those_of_the_full_forward(language_model):
    decoder = language_model.decoder
    prompts = [[1, 5, 9, 3, 7, 7], [4, 2], [6, 6, 6]]
    new = torch.randint(0, 40, (3, 5), generator=torch.Generator().manual_seed(7))
    padding = torch.tensor([0, 4, 3])
    cache = decoder.new_cache(3, padding, tokens=11)
    ids = torch.tensor([[0] * gap + prompt for gap, prompt in zip(padding.tolist(), prompts, strict=True)])
    with torch.no_grad():
        pieces = [decoder(part, cache=cache)[:, -1] for part in (ids, *new.split(1, dim=1))]
        for step, logits in enumerate(pieces):
            for row, prompt in enumerate(prompts):
                expected = following(language_model, prompt + new[row, :step].tolist())
                torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


def test_a_cache_filled_piece_by_piece_equals_the_full_forward(language_model):
    ids = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(3))
    cache = language_model.decoder.new_cache(3)
    with torch.no_grad():
        pieces = [language_model.decoder(part, cache=cache) for part in ids.split([4, 1, 1, 3], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), language_model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_defect_003_6_2_no_prompt_token_sees_a_later_one_in_prefill(language_model, padded):
    """The handbook's cached attention has no causal mask in prefill: there, a prompt's last token changes what its first ones are."""
    decoder = language_model.decoder
    padding = torch.tensor([0, 2]) if padded else None
    ids = torch.randint(3, 40, (2, 8), generator=torch.Generator().manual_seed(8))
    changed = ids.clone()
    changed[:, 5:] = 3
    with torch.no_grad():
        before, after = (decoder(x, cache=decoder.new_cache(2, padding, 8)) for x in (ids, changed))
    torch.testing.assert_close(before[:, 2:5], after[:, 2:5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_the_cache_has_room_for_the_tokens_that_can_come_and_no_more(language_model, monkeypatch):
    sizes = []
    new_cache = language_model.decoder.new_cache
    monkeypatch.setattr(
        type(language_model.decoder),
        "new_cache",
        lambda self, *arguments: sizes.append(new_cache(*arguments).kept.shape[3]) or new_cache(*arguments),
    )
    generate(language_model, [[1, 5, 9]], Decoding(max_new_tokens=4), None)
    assert sizes == [7]


def test_prefill_computes_the_logits_of_the_last_position_only(language_model, monkeypatch):
    shapes = []
    logits = language_model.decoder.logits
    monkeypatch.setattr(
        type(language_model.decoder), "logits", lambda self, hidden: shapes.append(hidden.shape) or logits(hidden)
    )
    generate(language_model, [[1, 5, 9]] * 2, Decoding(max_new_tokens=1), None)
    assert shapes == [(2, 32)]


def test_every_row_ends_at_its_own_eos(language_model):
    free = generate(language_model, PROMPTS, SETTINGS["drawn"], None)
    ended = generate(language_model, PROMPTS, SETTINGS["drawn"], EOS)
    assert {len(text) for text in free} == {12}
    assert len({len(text) for text in ended}) > 1, "the random texts should end at different tokens"
    for text, whole in zip(ended, free, strict=True):
        assert text == (whole[: whole.index(EOS)] if EOS in whole else whole)


def test_every_row_may_fill_the_context_whatever_its_batch(language_model):
    texts = generate(language_model, PROMPTS, Decoding(temperature=1.0), None)
    assert [len(prompt) + len(text) for prompt, text in zip(PROMPTS, texts, strict=True)] == [24] * len(PROMPTS)


@pytest.mark.parametrize(
    "settings",
    [Decoding(temperature=1.0), Decoding(), Decoding(beams=3, length_penalty=0.0)],
    ids=["drawn", "greedy", "beams"],
)
def test_no_text_ends_before_min_new_tokens(language_model, settings):
    limited = settings.model_copy(update={"max_new_tokens": 12})
    end = generate(language_model, PROMPTS, limited, None)[0][3]  # a token that would come early
    free = generate(language_model, PROMPTS, limited, end)
    later = generate(language_model, PROMPTS, limited.model_copy(update={"min_new_tokens": 9}), end)
    assert min(map(len, free)) < 9 <= min(map(len, later))
    assert all(end not in text for text in later)


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The rows of every step after prefill."""
    rows: list[int] = []
    step = CpuStep.__call__
    monkeypatch.setattr(CpuStep, "__call__", lambda self, ids, *x: rows.append(len(ids)) or step(self, ids, *x))
    return rows


def test_rows_that_have_ended_cost_no_work(language_model, steps):
    texts = generate(language_model, PROMPTS, Decoding(temperature=1.0), None)  # shorter prompts have longer texts
    assert len(steps) == max(map(len, texts)) - 1, "no step after the last row has ended"
    assert steps[0] == len(PROMPTS) > steps[-1], "ended rows are dropped on the way"


def test_streamed_tokens_are_the_final_texts(language_model):
    for settings in SETTINGS.values():
        texts = [[] for _ in PROMPTS]
        for step in stream(language_model, PROMPTS, settings, EOS):
            for row, token in step:
                texts[row].append(token)
        assert texts == generate(language_model, PROMPTS, settings, EOS)


def test_the_first_token_comes_before_the_second_is_computed(language_model, steps):
    texts = stream(language_model, [[1, 5]], Decoding(max_new_tokens=5), None)
    assert len(next(texts)) == 1 and not steps
    assert len(next(texts)) == 1 and len(steps) == 1


def test_the_seed_and_the_number_of_a_text_choose_what_is_drawn(language_model):
    settings = Decoding(temperature=1.0, max_new_tokens=12)
    texts = generate(language_model, [[1, 5]] * 4, settings, None, numbers=[0, 1, 0, 2])
    assert texts[0] == texts[2]
    assert len({tuple(text) for text in texts}) == 3
    other = settings.model_copy(update={"seed": 1})
    assert generate(language_model, [[1, 5]], other, None) != generate(language_model, [[1, 5]], settings, None)


def test_a_longer_limit_only_lengthens_a_text(language_model):
    short, long = (
        generate(language_model, PROMPTS, Decoding(temperature=1.0, max_new_tokens=count), None) for count in (6, 17)
    )
    assert [text[:6] for text in long] == short


def test_beam_search_beats_greedy_and_scores_as_the_model_does(language_model):
    for prompt in PROMPTS:
        scores = []
        for settings in (Decoding(max_new_tokens=6), Decoding(max_new_tokens=6, beams=30, length_penalty=0.0)):
            (text,) = generate(language_model, [prompt], settings, None)
            assert len(text) == 6
            with torch.no_grad():
                logits = language_model(torch.tensor([prompt + text]))[0, len(prompt) - 1 : -1].log_softmax(-1)
            scores.append(logits.gather(1, torch.tensor(text)[:, None]).sum().item())
        assert scores[1] >= scores[0] - 1e-4


def test_a_larger_length_penalty_never_shortens_a_beam_text(language_model):
    prompts = [*PROMPTS, *([1, token] for token in range(3, 23))]
    lengths = [
        [
            len(text)
            for text in generate(
                language_model, prompts, Decoding(beams=8, length_penalty=penalty, max_new_tokens=12), EOS
            )
        ]
        for penalty in (0.0, 1.0, 3.0)
    ]
    assert sum(lengths[0]) <= sum(lengths[1]) <= sum(lengths[2])
    assert sum(lengths[0]) < sum(lengths[2])


def test_a_prompt_longer_than_the_context_is_one_clear_line(language_model):
    with pytest.raises(
        DataError, match=r"^prompt 2: its 24 tokens leave no room in the model's context of 24; shorten it$"
    ):
        generate(language_model, [[1], [1] * 24], Decoding(), EOS)
    assert len(generate(language_model, [[1] * 23], Decoding(), None)[0]) == 1


def test_an_empty_prompt_is_one_clear_line(language_model):
    with pytest.raises(DataError, match="prompt 1: it is empty"):
        generate(language_model, [[]], Decoding(), EOS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 2, "temperature": 1.0}, "set only one of them"),
        ({"top_k": 5}, "top_k limits random draws.*set temperature"),
        ({"min_p": 0.1}, "min_p limits random draws"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens 5 is more than max_new_tokens 4"),
        ({"top_p": 0.0, "temperature": 1.0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**settings)


def test_every_end_ends_a_text_in_every_decoder(language_model):
    for settings in SETTINGS.values():
        free = generate(language_model, PROMPTS, settings, None)
        ends = [free[0][2], free[2][4]]
        ended = generate(language_model, PROMPTS, settings, ends)
        assert not any(end in text for text in ended for end in ends)
        if settings.beams == 1:
            for text, whole in zip(ended, free, strict=True):
                stops = [whole.index(end) for end in ends if end in whole]
                assert text == whole[: min(stops, default=len(whole))]


def test_a_text_of_beam_search_ends_only_where_its_end_is_among_the_likeliest(language_model):
    """transformers' rule: an end of a low rank is no candidate, so a short text does not win by its length alone."""
    prompt = [1, 5, 9, 3]
    order = following(language_model, prompt).argsort(descending=True).tolist()
    settings = Decoding(beams=3, max_new_tokens=1, length_penalty=0.0)
    assert generate(language_model, [prompt], settings, order[10])[0] == [order[0]]
    assert generate(language_model, [prompt], settings, order[1])[0] == []


def test_no_prompts_give_no_texts_and_an_unknown_token_is_one_clear_line(language_model):
    assert generate(language_model, [], Decoding(), EOS) == []
    with pytest.raises(DataError, match=r"^prompt 2: token 40 is beyond the vocabulary of the model, which has 40 "):
        generate(language_model, [[1], [1, 40]], Decoding(), EOS)


def test_a_batch_without_rows_has_no_texts(language_model, captioner):
    assert generate(language_model, [], SETTINGS["greedy"], EOS) == []
    assert generate(language_model, [], SETTINGS["beams"], EOS) == []
    assert caption(captioner, torch.empty(0, 3, 8, 8), Decoding(), BOS, EOS) == []


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-38, 1e-46, 5e-324])
def test_a_temperature_near_zero_draws_the_likeliest_token(language_model, temperature):
    wanted = generate(language_model, PROMPTS, Decoding(max_new_tokens=12), EOS)
    assert generate(language_model, PROMPTS, Decoding(temperature=temperature, max_new_tokens=12), EOS) == wanted
    limited = Decoding(temperature=temperature, top_k=5, top_p=0.9, min_p=0.1, max_new_tokens=12)
    assert generate(language_model, PROMPTS, limited, EOS) == wanted
