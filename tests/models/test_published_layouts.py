"""timm's arguments and sentence encoders: equal to the published implementation, or refused with the name of the field."""

import json
from contextlib import suppress
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
from glassworks.models.pretrained.vision import (
    CLIP_MEAN,
    CLIP_STD,
    export_vision_transformer,
    load_vision_transformer,
    preprocessing,
    vision_config,
)
from glassworks.models.pretrained.whisper import check_preprocessing, whisper_config
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


ENCODERS: dict[str, tuple[Any, Any]] = {
    "clip": (vision_config, transformers.CLIPConfig()),
    "clip_vision_model": (vision_config, transformers.CLIPVisionConfig()),
    "whisper": (whisper_config, transformers.WhisperConfig()),
}
"""Their reader and configuration, with the defaults of transformers."""


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_key_of_an_encoders_configuration_is_read_or_harmless(kind: str) -> None:
    """And every default that we take for a missing key is that of transformers."""
    read, config = ENCODERS[kind]
    whole = {**config.to_dict(), "model_type": kind}
    expected = read(whole)
    for name in whole.keys() - {"model_type", "vision_config"}:
        without = {key: value for key, value in whole.items() if key != name}
        with suppress(ArtifactError):  # a missing key that is refused is no guess
            assert read(without) == expected, name
    with pytest.raises(ConfigError, match=r"rotary_angle is 3, and this key is not read"):
        read({**whole, "rotary_angle": 3})
    if kind == "clip":
        tower = whole["vision_config"]
        assert read({**whole, "vision_config_dict": {"patch_size": 16}}).patch_size == 16
        for name in tower:
            assert read({**whole, "vision_config": {key: value for key, value in tower.items() if key != name}})
        with pytest.raises(ConfigError, match=r"vision_config\.rotary_angle is 3"):
            read({**whole, "vision_config": {**tower, "rotary_angle": 3}})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("clip_vision_model", {"hidden_act": "relu"}),
        ("clip_vision_model", {"num_channels": 1}),
        ("clip_vision_model", {"patch_size": 0}),
        ("clip_vision_model", {"layer_norm_eps": "small"}),
        ("clip_vision_model", {"pruned_heads": {"0": [1]}}),
        ("whisper", {"scale_embedding": True}),
        ("whisper", {"activation_function": "relu"}),
        ("whisper", {"encoder_layers": None}),
    ],
)
def test_a_key_of_an_encoder_with_a_value_that_is_not_read_is_refused(kind: str, changes: dict[str, Any]) -> None:
    read, config = ENCODERS[kind]
    with pytest.raises((ConfigError, ArtifactError), match=next(iter(changes))) as error:
        read({**config.to_dict(), "model_type": kind, **changes})
    assert "\n" not in str(error.value)


def test_colours_and_spectrograms_of_preprocessor_config_are_read_or_refused(tmp_path: Path) -> None:
    def write(directory: Path, processor: Any, **changes: Any) -> Path:
        directory.mkdir(exist_ok=True)
        processor.save_pretrained(directory)
        file = directory / "preprocessor_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return directory

    images, speech = transformers.CLIPImageProcessor(), transformers.WhisperFeatureExtractor()
    assert preprocessing(tmp_path) == {}
    assert preprocessing(write(tmp_path / "clip", images)) == {"mean": CLIP_MEAN, "std": CLIP_STD}
    other = write(tmp_path / "clip", images, image_mean=[0.1, 0.2, 0.3], image_std=[1, 1, 1])
    assert preprocessing(other) == {"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}
    for changes in ({"do_normalize": False}, {"rescale_factor": 1 / 127.5}, {"image_mean": [0.5]}, {"offset": 1}):
        with pytest.raises(ConfigError, match=rf"preprocessor_config\.json: {next(iter(changes))}"):
            preprocessing(write(tmp_path / "clip", images, **changes))
    config = whisper_config(transformers.WhisperConfig().to_dict())
    check_preprocessing(write(tmp_path / "whisper", speech), config)
    for changes in ({"sampling_rate": 8000}, {"feature_size": 128}, {"dither": 1.0}, {"chunk_length": 20}, {"gain": 2}):
        with pytest.raises(ConfigError, match=rf"preprocessor_config\.json: {next(iter(changes))}"):
            check_preprocessing(write(tmp_path / "whisper", speech, **changes), config)


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 8, "do_lower_case": True}, "do_lower_case"),
        ("sentence_bert_config.json", {"max_seq_length": "8"}, "max_seq_length"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name"),
        ("config_sentence_transformers.json", {"truncate_dim": 4}, "truncate_dim"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "include_prompt": False}, "include_prompt"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "layer": 3}, "layer"),
    ],
)
def test_a_key_of_sentence_transformers_that_is_not_read_is_refused(
    file: str, content: dict[str, Any], field: str, tmp_path: Path
) -> None:
    sentence_folder(tmp_path)
    good = {"__version__": {}, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(good))
    SentenceEncoder.load(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"{file}: {field} is"):
        SentenceEncoder.load(tmp_path)
