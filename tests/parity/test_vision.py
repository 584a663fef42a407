"""CLIP's image tower and timm's ViT: ours and the published implementations with the same weights; backbones of timm."""

import json

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from glassworks.errors import ArtifactError, ConfigError
from glassworks.inference.published import check_published
from glassworks.models.backbone import Backbone
from glassworks.models.feed_forward import ACTIVATIONS
from glassworks.models.pretrained.backbones import load_backbone, read_arguments
from glassworks.models.pretrained.vision import (
    CLIP_MEAN,
    CLIP_STD,
    export_vision_transformer,
    load_vision_transformer,
    vision_config,
)
from glassworks.models.settings.backbone import Backbone as BackboneConfig
from glassworks.models.settings.vision_transformer import VisionTransformer as Config
from glassworks.models.vision_transformer import VisionTransformer

from .conftest import randomise

RANDOM = "random, seed 0"
CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
    "projection_dim": 768,
}
SMALL = {
    **CLIP_L,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
}


def pixels(side, rows=1):
    """Images [rows, 3, side, side] in [-1, 1], as our networks take them."""
    return torch.rand(rows, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def standardised(images, mean, std):
    """The same images as the published implementations take them."""
    return ((images + 1) / 2 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def clip(**settings):
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**settings)).eval()
    randomise(model)
    return model


def vit(name="vit_base_patch16_224", **settings):
    model = timm.create_model(name, pretrained=False, **settings).eval()
    randomise(model)
    return model


def save_timm(model, directory, name="vit_base_patch16_224", **config):
    directory.mkdir()
    save_file(model.state_dict(), directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"architecture": name, **config}))
    return directory


@torch.no_grad()
def test_clips_features_equal_those_of_transformers(tmp_path, compare):
    model, images = clip(**{**CLIP_L, "num_hidden_layers": 3}), pixels(336)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_vision_transformer(tmp_path / "theirs").eval()
    theirs = model(pixel_values=standardised(images, CLIP_MEAN, CLIP_STD), output_hidden_states=True)
    name, what = "CLIP ViT-L/14-336", "3 layers of the real width"
    compare(ours.layers(images, [-2])[0], theirs.hidden_states[-2], name, RANDOM, f"penultimate features, {what}")
    compare(ours.layers(images, [-1])[0], theirs.last_hidden_state, name, RANDOM, f"features of the last block, {what}")
    export_vision_transformer(ours, tmp_path / "again")
    again = transformers.CLIPVisionModel.from_pretrained(tmp_path / "again")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


@torch.no_grad()
def test_clip_loads_from_the_hubs_own_names_beside_its_text_tower(tmp_path):
    model = clip(**SMALL)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tower = {f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in tensors.items()}
    others = {
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "text_model.embeddings.token_embedding.weight": torch.zeros(9, 4),
        "visual_projection.weight": torch.zeros(8, 32),
        "logit_scale": torch.tensor(2.0),
    }
    save_file({**tower, **others}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": SMALL}))
    ours, images = load_vision_transformer(tmp_path).eval(), pixels(28)
    theirs = model(pixel_values=standardised(images, CLIP_MEAN, CLIP_STD)).last_hidden_state
    torch.testing.assert_close(ours.layers(images, [-1])[0], theirs, rtol=1e-4, atol=1e-4)


def test_clip_has_as_many_parameters_as_the_published_model():
    with torch.device("meta"):
        model = VisionTransformer(vision_config({"model_type": "clip", "vision_config": CLIP_L}))
    assert sum(parameter.numel() for parameter in model.parameters()) == 303_507_456


def test_defect_000_4_clip_has_no_patch_bias_a_first_norm_quick_gelu_and_its_own_colours():
    config = vision_config({"model_type": "clip", "vision_config": CLIP_L})
    assert not config.patch_bias and config.first_norm and config.class_token
    assert (config.mean, config.std) == (CLIP_MEAN, CLIP_STD)
    x = torch.linspace(-3, 3, 50)
    assert config.feed_forward == "quick_gelu"
    torch.testing.assert_close(ACTIVATIONS[config.feed_forward](x), x * torch.sigmoid(1.702 * x))
    assert (ACTIVATIONS["gelu"](x) - ACTIVATIONS["quick_gelu"](x)).abs().max() > 0.01


@torch.no_grad()
def test_defect_000_4_clips_features_are_those_of_the_last_but_one_block_without_the_final_norm(tmp_path):
    """The document normalises the last block's output and hands it on; nothing here trains that norm."""
    clip(**SMALL).save_pretrained(tmp_path)
    ours, images = load_vision_transformer(tmp_path).eval(), pixels(28)
    [features], changed = ours.layers(images, [-2]), ours(images)
    ours.norm.weight.zero_()
    ours.blocks[-1].attention.out.weight.zero_()
    assert torch.equal(ours.layers(images, [-2])[0], features)
    assert not torch.allclose(ours(images), changed)


@torch.no_grad()
def test_defect_000_8_the_norm_before_attention_runs_once_and_clips_projections_load(tmp_path):
    """The document normalises for queries, keys and values each, into one packed projection that has no name of CLIP's."""
    clip(**SMALL).save_pretrained(tmp_path)
    published = load_file(tmp_path / "model.safetensors")
    ours, runs = load_vision_transformer(tmp_path).eval(), []
    block = ours.blocks[0]
    block.attention_norm.register_forward_hook(lambda *_: runs.append(1))
    ours(pixels(28))
    assert len(runs) == 1
    names = [
        next(name for name in published if f"layers.0.self_attn.{part}_proj.weight" in name) for part in ("q", "k", "v")
    ]
    assert torch.equal(block.attention.qkv.weight, torch.cat([published[name] for name in names]))


@torch.no_grad()
def test_features_of_timms_vit_equal_timms(tmp_path, compare):
    model, images = vit(), pixels(224)
    save_timm(model, tmp_path / "theirs")
    ours = load_vision_transformer(tmp_path / "theirs").eval()
    assert ours.config.norm_eps == 1e-6 and ours.config.mean == (0.5, 0.5, 0.5)
    theirs = model.forward_features(standardised(images, (0.5,) * 3, (0.5,) * 3))
    compare(ours(images), theirs, "timm vit_base_patch16_224", RANDOM, "normalised features, 12 layers")
    assert sum(parameter.numel() for parameter in ours.parameters()) == 85_798_656
    export_vision_transformer(ours, tmp_path / "again")
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).state_dict()
    assert all(
        torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items() if not key.startswith("head.")
    )


@pytest.mark.parametrize(
    ("name", "why"), [("vit_small_patch16_dinov3", "plain"), ("resnet18", "plain"), ("vit_huge", "no model")]
)
def test_other_networks_of_timm_are_refused(name, why):
    with pytest.raises((ConfigError, ArtifactError), match=why):
        vision_config({"architecture": name})


def test_a_vision_transformer_that_is_nobodys_is_not_exported(tmp_path):
    with pytest.raises(ConfigError, match="neither CLIP's nor timm's"):
        export_vision_transformer(VisionTransformer(Config()), tmp_path)


SIZES = {
    "tf_efficientnet_lite0": 96,
    "resnet18": 64,
    "vit_tiny_patch16_224": 64,
    "convnext_atto": 64,
    "swin_tiny_patch4_window7_224": 224,
}


@pytest.mark.parametrize("name", SIZES)
def test_a_backbone_gives_timms_features_and_every_parameter_a_gradient(name, tmp_path):
    sized = {"img_size": SIZES[name]} if "vit" in name or "swin" in name else {}
    model, images = vit(name, **sized), pixels(SIZES[name], rows=2)
    directory = save_timm(model, tmp_path / "theirs", name, model_args=sized)
    ours = Backbone(BackboneConfig(name=name, image_size=SIZES[name], layers=(1, -1)))
    load_backbone(ours, directory)
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    with torch.no_grad():
        scaled = standardised(images, mean, std)
        maps = model.forward_intermediates(scaled, intermediates_only=True, output_fmt="NCHW", norm=False)
    coarse, fine = ours.eval()(images)[::-1]
    assert ours.widths == [fine.shape[2], coarse.shape[2]] and fine.shape[1] == coarse.shape[1]
    torch.testing.assert_close(fine, maps[1].flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)
    places = coarse.transpose(1, 2).unflatten(2, maps[1].shape[2:])
    shrunk = places[:, :, :: maps[1].shape[2] // maps[-1].shape[2], :: maps[1].shape[3] // maps[-1].shape[3]]
    torch.testing.assert_close(shrunk, maps[-1], rtol=1e-4, atol=1e-4)
    sum((tokens * torch.randn_like(tokens)).sum() for tokens in ours.train()(images)).backward()
    assert [parameter for parameter, value in ours.named_parameters() if value.grad is None] == []


TOWERS = {
    "vit_base_patch16_siglip_224": 0,
    "vit_base_patch16_siglip_gap_224": 0,
    "vit_small_patch14_dinov2": 1,
    "vit_small_patch14_reg4_dinov2": 5,
}
"""Towers of SigLIP (pooled by attention, and by the mean) and DINOv2 (without and with registers), with their tokens before the patches."""


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("grown", [1, 2])
@torch.no_grad()
def test_siglip_and_dinov2_give_timms_patch_tokens(name, grown, tmp_path, compare):
    """At the size of the weights and at another one, for which timm resizes positions; class token, registers and pooling are left out."""
    patch = 14 if "dinov2" in name else 16
    shape = {"embed_dim": 32, "depth": 3, "num_heads": 2}
    model = vit(name, img_size=3 * patch, **shape)
    colours = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]} if grown == 2 else {}
    pretrained = {"input_size": [3, 3 * patch, 3 * patch], **colours}
    directory = save_timm(model, tmp_path / "theirs", name, model_args=shape, pretrained_cfg=pretrained)
    check_published(directory)
    side = 3 * patch * grown
    config = BackboneConfig(name=name, image_size=side, layers=(0, -1))
    ours = Backbone(read_arguments(config, directory)).eval()
    load_backbone(ours, directory)
    model.set_input_size(img_size=(side, side))
    images = pixels(side, rows=2)
    taken = {**model.pretrained_cfg, **colours}
    scaled = standardised(images, taken["mean"], taken["std"])
    maps = model.forward_intermediates(scaled, indices=[0, 2], intermediates_only=True, norm=False)
    for layer, found, theirs in zip((0, -1), ours(images), maps, strict=True):
        assert model.num_prefix_tokens == TOWERS[name] and found.shape == (2, (3 * grown) ** 2, 32)
        theirs = theirs.flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)
        if (layer, grown) == (-1, 2):
            compare(found, theirs, f"timm {name}", RANDOM, "patch tokens, images of twice the size")


@torch.no_grad()
def test_batch_norm_does_not_depend_on_how_a_batch_is_cut():
    backbone, images = Backbone(BackboneConfig(name="resnet18", image_size=64)).train(), pixels(64, rows=4)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    [whole] = backbone(images)
    halves = torch.cat([backbone(part)[0] for part in images.split(2)])
    torch.testing.assert_close(whole, halves, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tensor, backbone.state_dict()[name]) for name, tensor in before.items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


def test_positions_of_a_vit_are_resized_to_the_images(tmp_path):
    model = vit("vit_tiny_patch16_224")
    directory = save_timm(model, tmp_path / "theirs", "vit_tiny_patch16_224")
    backbone = Backbone(BackboneConfig(name="vit_tiny_patch16_224", image_size=96))
    load_backbone(backbone, directory)
    assert backbone.network.pos_embed.shape == (1, 37, 192)
    assert torch.equal(backbone.network.pos_embed[:, 0], model.pos_embed[:, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "vit_base_patch16_223"},
            "timm has no model 'vit_base_patch16_223'; did you mean vit_base_patch16_224",
        ),
        ({"name": "resnet18", "layers": (7,)}, r"resnet18 has the layers 0 to 4 \(or -1 to -5\), not \[7\]"),
        ({"name": "xyz"}, "timm has no model 'xyz'"),
    ],
)
def test_a_backbone_that_does_not_exist_is_one_line(settings, message):
    with pytest.raises(ConfigError, match=message):
        Backbone(BackboneConfig(**settings))


def test_weights_of_another_backbone_are_refused(tmp_path):
    directory = save_timm(vit("resnet18"), tmp_path / "theirs", "resnet18")
    with pytest.raises(ArtifactError, match=r"config\.json: resnet18, where model\.backbone\.name is resnet34"):
        load_backbone(Backbone(BackboneConfig(name="resnet34")), directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["layer9.weight"] = tensors.pop("layer1.0.conv1.weight")
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"missing layer1\.0\.conv1\.weight; extra layer9\.weight"):
        load_backbone(Backbone(BackboneConfig(name="resnet18")), directory)
