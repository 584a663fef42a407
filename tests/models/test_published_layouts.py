"""timm's arguments and sentence encoders: equal to the published implementation, or refused with the name of the field."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from glassworks.errors import ArtifactError, ConfigError
from glassworks.models.backbone import Backbone
from glassworks.models.pretrained.backbones import load_backbone, read_arguments
from glassworks.models.pretrained.vision import export_vision_transformer, load_vision_transformer
from glassworks.models.sentence_encoder import SentenceEncoder
from glassworks.models.settings.backbone import Backbone as Config

from ..parity.conftest import randomise

NAME = "vit_tiny_patch16_224"
FLAT = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_size": [3, 32, 32], "num_classes": 1000}


def save_timm(directory: Path, arguments: dict[str, Any], **config: Any) -> Any:
    model = timm.create_model(NAME, pretrained=False, img_size=32, **arguments).eval()
    randomise(model)
    directory.mkdir()
    save_file(model.state_dict(), directory / "model.safetensors", {"format": "pt"})
    content = {"architecture": NAME, "model_args": {**arguments, "img_size": 32}, **config}
    (directory / "config.json").write_text(json.dumps(content))
    return model


@pytest.mark.parametrize("arguments", [{}, {"num_heads": 6}, {"init_values": 0.1}, {"act_layer": "relu"}, {"depth": 3}])
@torch.no_grad()
def test_a_backbone_is_made_with_the_arguments_and_the_colours_of_its_weights(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    model = save_timm(tmp_path / "flat", arguments, **FLAT)
    config = read_arguments(Config(name=NAME, image_size=32), tmp_path / "flat")
    ours = Backbone(Config.model_validate(config.model_dump())).eval()
    load_backbone(ours, tmp_path / "flat")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    scaled = ((images + 1) / 2 - torch.tensor(FLAT["mean"])[:, None, None]) / torch.tensor(FLAT["std"])[:, None, None]
    theirs = model.forward_intermediates(scaled, intermediates_only=True, norm=False)[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours(images)[0], theirs, rtol=1e-4, atol=1e-4)
    if arguments:
        with pytest.raises((ConfigError, ArtifactError), match="model_args"):
            load_backbone(Backbone(Config(name=NAME, image_size=32)), tmp_path / "flat")


@torch.no_grad()
def test_a_vit_keeps_its_heads_when_it_is_exported_and_read_as_a_backbone(tmp_path: Path) -> None:
    save_timm(tmp_path / "theirs", {"num_heads": 6}, pretrained_cfg=FLAT)
    ours = load_vision_transformer(tmp_path / "theirs").eval()
    assert ours.config.heads == 6 and ours.config.mean == tuple(FLAT["mean"])
    export_vision_transformer(ours, tmp_path / "again")
    name = json.loads((tmp_path / "again/config.json").read_text())["architecture"]
    assert read_arguments(Config(name=name, image_size=32), tmp_path / "again").arguments["num_heads"] == 6


@pytest.mark.parametrize("arguments", [{"act_layer": "relu"}, {"init_values": 0.1}, {"num_heads": 6, "qk_norm": True}])
def test_a_vit_of_another_network_is_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    save_timm(tmp_path / "theirs", arguments, pretrained_cfg=FLAT)
    with pytest.raises(ConfigError, match="not the plain Vision Transformer"):
        load_vision_transformer(tmp_path / "theirs")


def sentence_folder(directory: Path, kind: str = "bert", pooling: str = "mean_tokens", kinds: Any = ()) -> Any:
    names = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(directory)
    shape = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 1}
    shape |= {"intermediate_size": 24, "max_position_embeddings": 22}
    config = (transformers.BertConfig if kind == "bert" else transformers.RobertaConfig)(**shape)
    model = transformers.AutoModel.from_config(config).eval()
    randomise(model)
    model.save_pretrained(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    modules = [{"idx": 0, "path": "", "type": "m.Transformer"}, {"idx": 1, "path": "1_Pooling", "type": "m.Pooling"}]
    modules += [{"idx": 2 + index, "path": f"x_{one}", "type": f"m.{one}"} for index, one in enumerate(kinds)]
    (directory / "modules.json").write_text(json.dumps(modules))
    return model


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "max_tokens", "lasttoken"])
@torch.no_grad()
def test_sentences_are_pooled_as_their_modules_state(pooling: str, tmp_path: Path) -> None:
    model = sentence_folder(tmp_path, pooling=pooling)
    ours = SentenceEncoder.load(tmp_path)
    tokens = model(**ours.tokenizer("abcde", return_tensors="pt")).last_hidden_state[0]
    expected = {"cls_token": tokens[0], "max_tokens": tokens.amax(0), "lasttoken": tokens[-1]}.get(
        pooling, tokens.mean(0)
    )
    torch.testing.assert_close(ours.encode(["abcde", "abcdefghij"])[0], expected, rtol=1e-4, atol=1e-4)


def test_modules_weights_and_lengths_that_differ_are_seen(tmp_path: Path) -> None:
    sentence_folder(tmp_path / "dense", kinds=["Dense", "Normalize"])
    with pytest.raises(ConfigError, match="type is Transformer > Pooling > Dense > Normalize"):
        SentenceEncoder.load(tmp_path / "dense")
    sentence_folder(tmp_path / "roberta", "roberta", kinds=["Normalize"])
    long = SentenceEncoder.load(tmp_path / "roberta")
    assert long.max_tokens == 20 and long.encode(["a" * 60]).norm() == pytest.approx(1)
    file = tmp_path / "roberta/model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, file, {"format": "pt"})
    assert next(SentenceEncoder.load(tmp_path / "roberta").parameters()).dtype == torch.float32
    tensors.pop("encoder.layer.0.output.dense.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"missing encoder\.layer\.0\.output\.dense\.weight"):
        SentenceEncoder.load(tmp_path / "roberta")
