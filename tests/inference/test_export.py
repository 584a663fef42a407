"""`glassworks export`: what transformers opens is the model and the tokenizer that were trained here."""

import pytest
import torch
import transformers
from typer.testing import CliRunner

from glassworks.cli import app
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ArtifactError, ConfigError
from glassworks.inference.export import run
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
    assert tokenizer(TEXT).input_ids == ids[1:-1] and tokenizer.decode(ids[1:-1]) == TEXT
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (
        ours.bos,
        ours.eos,
        ours.pad,
    )
    expected = LanguageModel.load(directory).eval()(torch.tensor([ids]))
    torch.testing.assert_close(model.eval()(torch.tensor([ids])).logits, expected, rtol=1e-4, atol=1e-4)


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
    with pytest.raises(ArtifactError, match="captioner; only language models trained here are exported"):
        run(tmp_path / "models/sees", target, tmp_path)
