"""Small trained-looking models in folders, and the command line to ask them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from glassworks.artifacts.digests import write_json
from glassworks.cli import main
from glassworks.models.captioner import Captioner
from glassworks.models.language_model import LanguageModel
from glassworks.models.settings.captioner import Captioner as CaptionerConfig
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_transformer import VisionTransformer

SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_bytes_tokenizer(tmp_path / "tokenizer")


def write_bytes_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer without merges: a token for every byte, after three special ones."""
    names = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL.values()))
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", SPECIAL)
    return folder


@pytest.fixture
def writer(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/writer, a language model, in a project that is the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    return saved(LanguageModel(TextDecoder(width=16, depth=2, heads=2, max_tokens=32), 259), tokenizer, "writer")


@pytest.fixture
def describer(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/describer, a captioner."""
    monkeypatch.chdir(tmp_path)
    return write_describer(tokenizer)


def write_describer(tokenizer: Path) -> Path:
    torch.manual_seed(3)
    config = CaptionerConfig(
        encoder=VisionTransformer(image_size=24, patch_size=8, width=16, depth=1, heads=2, class_token=True),
        decoder=TextDecoder(width=16, depth=2, heads=2, max_tokens=12),
    )
    return saved(Captioner(config, 259), tokenizer, "describer")


def saved(model: torch.nn.Module, tokenizer: Path, name: str) -> Path:
    """models/NAME with other weights than those of an initialisation, and the tokenizer."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    folder = Path("models", name)
    model.save(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder


Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Run `glassworks …` in this process: exit code, output, errors."""
    threads = torch.get_num_threads()

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["glassworks", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        torch.set_num_threads(threads)
        shown = capfd.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    return run
