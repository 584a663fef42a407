"""`glassworks export`: what transformers opens is the model and the tokenizer that were trained here."""

import pytest
import torch
import transformers
from typer.testing import CliRunner

from glassworks.cli import app
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ArtifactError, ConfigError
from glassworks.generation.settings import Decoding
from glassworks.inference.export import run
from glassworks.inference.generate import Writer
from glassworks.models.captioner import Captioner
from glassworks.models.language_model import LanguageModel
from glassworks.models.settings.captioner import Captioner as CaptionerConfig
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_transformer import VisionTransformer
from glassworks.stages.tokenizer import SPECIAL, _bytes

TEXT = "in the beginning was the word"


@pytest.fixture
def trained(tmp_path):
    """A project with one model."""
    directory = tmp_path / "models/small"

    def save(vocabulary=280, **settings):
        torch.manual_seed(0)
        LanguageModel(TextDecoder(width=32, depth=2, heads=2, **settings), vocabulary).save(directory)
        _bytes([TEXT] * 3, 280).save(str(directory / "tokenizer.json"))
        names = transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), **SPECIAL)
        names.save_pretrained(directory)
        return directory

    return save


@torch.no_grad()
def test_transformers_opens_model_and_tokenizer(trained, tmp_path):
    directory, target = trained(), tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(directory), str(target)])
    assert done.exit_code == 0 and done.output == f"{target}: GPT2LMHeadModel\n"
    model, tokenizer = (
        kind.from_pretrained(target) for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    )
    ours = TextTokenizer(directory)
    ids = ours.encode(TEXT, 40)
    assert tokenizer(TEXT).input_ids == ids[:-1] and tokenizer.decode(ids[1:-1]) == TEXT
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (
        ours.bos,
        ours.eos,
        ours.pad,
    )
    expected = LanguageModel.load(directory).eval()(torch.tensor([ids]))
    torch.testing.assert_close(model.eval()(torch.tensor([ids])).logits, expected, rtol=1e-4, atol=1e-4)


LLAMA = {"position": "rotary", "norm": "rms", "feed_forward": "swiglu", "biases": "none", "kv_heads": 1}
KINDS = {
    "GPT2LMHeadModel": {},
    "LlamaForCausalLM": LLAMA,
    "Qwen2ForCausalLM": {**LLAMA, "biases": "qkv"},
    "Qwen3ForCausalLM": {**LLAMA, "head_norms": True},
    "SmolLM3ForCausalLM": {**LLAMA, "unrotated_blocks": (1,)},
    "MistralForCausalLM": {**LLAMA, "window": 9},
    "Gemma3ForCausalLM": {
        **LLAMA,
        "feed_forward": "geglu_tanh",
        "head_norms": True,
        "output_norms": True,
        "scale_embeddings": True,
        "window": 9,
        "windowed_blocks": (0,),
        "window_rope_theta": 500.0,
    },
}
PROMPTS = ["in the", "word", "", " the beginning", "was  it", "caf\u00e9 \u20ac", "in\n\nthe", "God"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_writes_what_it_writes_here_from_text_to_text(trained, tmp_path, kind):
    directory, target = trained(max_tokens=96, **KINDS[kind]), tmp_path / "out"
    assert run(directory, target, tmp_path).architecture == kind
    here, there = Writer(directory, tmp_path), Writer(target, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(target).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    settings = Decoding(max_new_tokens=64)
    written = list(here.write(PROMPTS, settings))
    assert written == list(there.write(PROMPTS, settings))
    for prompt, _, ids, text in written:
        given = tokenizer(prompt, return_tensors="pt").input_ids
        assert given[0].tolist() == here.encode(prompt)
        found = theirs.generate(given, max_new_tokens=64, do_sample=False)[0, given.shape[1] :].tolist()
        assert [token for token in found if token != here.tokenizer.eos] == ids
        assert tokenizer.decode(found, skip_special_tokens=True) == text
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in target.iterdir()} == dict.fromkeys(
        (
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ),
        "0o644",
    )
    assert theirs.generation_config.eos_token_id == here.tokenizer.eos
    assert kind in (target / "README.md").read_text()


def test_what_cannot_be_exported_is_one_line(trained, tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ConfigError, match="transformers has no architecture"):
        run(trained(norm="rms"), target, tmp_path)
    with pytest.raises(ArtifactError, match="vocabulary"):
        run(trained(vocabulary=100), target, tmp_path)
    assert not target.exists()
    directory = trained()
    target.mkdir()
    (target / "mine.txt").touch()
    with pytest.raises(ArtifactError, match="is there already; choose a new folder"):
        run(directory, target, tmp_path)
    captioner = CaptionerConfig(
        encoder=VisionTransformer(image_size=16, width=32, depth=1, heads=2), decoder=TextDecoder(width=32, heads=2)
    )
    Captioner(captioner, 280).save(tmp_path / "models/sees")
    with pytest.raises(ArtifactError, match="captioner; only language models are exported"):
        run(tmp_path / "models/sees", target, tmp_path)
