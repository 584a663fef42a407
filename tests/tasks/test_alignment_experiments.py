"""The alignment studies outside `all`: accepted as they are committed, with the parameters that their headers name, on the meta device."""

import pytest
import torch
import transformers
import yaml

from glassworks.config.project import load_project
from glassworks.models.alignment import Alignment, head_of
from glassworks.models.settings.alignment import Alignment as Heads

from ..small_pipeline import REPOSITORY

FEATURES = {
    "efficientnet": (320, None),
    "efficientnet_both": (432, None),
    "clip_l_mean": (1024, None),
    "clip_l_tokens": (1024, 577),
    "whisper_base": (512, None),
    "minilm_captions": (384, None),
    "efficientnet_map": (112, 81),
    "efficientnet_map_mean": (112, None),
    "minilm": (384, None),
}
"""Width of the features of an encoder, and its tokens if it does not pool them."""


def load(root, *names):
    """The project with the entries of params.yaml that the headers of experiments ask for."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text()) | {"experiments": list(names)}
    (root / "experiments").mkdir()
    for name in names:
        text = (REPOSITORY / "experiments" / f"{name}.yaml").read_text()
        (root / "experiments" / f"{name}.yaml").write_text(text)
        header = text.split("task:")[0].splitlines()
        asked = "\n".join(line.removeprefix("#   ") for line in header if line.startswith("#   "))
        entries = yaml.safe_load(asked.replace("COMMIT", "a" * 40))
        for section in entries.keys() & {"datasets", "weights", "encoders"}:
            params[section] |= entries[section]
    for dataset in params["datasets"].values():
        if "path" in dataset:
            dataset["path"] = dataset["path"].removeprefix("/")
            (root / dataset["path"]).mkdir(parents=True)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return load_project(root)


def build(model):
    """The heads on the meta device; tokens and widths are those of the encoders."""
    towers = {}
    for name, tower in model.towers.items():
        width, tokens = FEATURES[tower.encoder]
        towers[name] = {"width": width, **({"head": tower.head} if tower.head else {})}
        if head_of(towers[name], model) == "perceiver":
            towers[name]["tokens"] = tokens
    with torch.device("meta"):
        return Alignment(model.plain(Heads), towers)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("align_perceiver", {"mean": 292_576, "perceiver": 292_128}),
        ("align_perceiver_scenes", {"mean": 292_576, "perceiver": 292_128, "positions": 294_032}),
    ],
)
def test_the_variants_have_equal_parameters_and_three_seeds(tmp_path, study, expected):
    project = load(tmp_path, study)
    heads, totals = {}, set()
    for variant, runs in project.variants[study].items():
        assert [seed for seed, _ in runs] == [1, 2, 3]
        model = build(project.experiments[runs[0][1]].model)
        heads[variant] = count(model.heads["image"])
        totals.add(count(model))
    assert heads == expected
    assert max(heads.values()) / min(heads.values()) < 1.01 and max(totals) / min(totals) < 1.01


def test_the_rungs_of_the_ladder_have_equal_parameters(tmp_path):
    project = load(tmp_path, "align_ladder")
    rungs = {name: project.experiments[runs[0][1]] for name, runs in project.variants["align_ladder"].items()}
    counts = {name: count(build(rung.model)) for name, rung in rungs.items()}
    assert counts["mlp"] == counts["neighbours"] == counts["mixup"] == 708_993
    assert max(counts.values()) / min(counts.values()) < 1.001
    assert rungs["neighbours"].model.structure == 10 and rungs["mixup"].training.mixup == 1
    assert {len(runs) for runs in project.variants["align_ladder"].values()} == {3}


def frozen(encoder):
    """Parameters of a published encoder on the meta device: the image tower of CLIP ViT-L/14-336, or the encoder of Whisper base."""
    with torch.device("meta"):
        if encoder.encoder == "clip_image":
            settings = transformers.CLIPVisionConfig(
                hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14
            )  # fmt: skip
            return count(transformers.CLIPVisionModel(settings))
        if encoder.encoder == "whisper":
            settings = transformers.WhisperConfig(
                d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048, decoder_layers=1, decoder_attention_heads=8
            )  # fmt: skip
            return count(transformers.WhisperModel(settings).encoder)
        return count(
            transformers.BertModel(
                transformers.BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
            )
        )


@pytest.mark.parametrize(
    ("study", "trained", "towers"),
    [
        ("perceiver_ablation", {"mean": 9_845_505, "perceiver": 68_663_041}, {"image": 303_507_456, "text": 22_713_216}),
        ("mrl_ablation", {"document": 14_571_265, "halving": 14_571_265, "width_1024": 14_571_265}, {"image": 303_507_456, "audio": 20_590_592, "text": 22_713_216}),
    ],
)  # fmt: skip
def test_the_ablations_of_edge_glass_are_accepted_and_have_the_parameters_of_their_headers(
    tmp_path, study, trained, towers
):
    project = load(tmp_path, study)
    runs = {name: project.experiments[some[0][1]].model for name, some in project.variants[study].items()}
    assert {name: count(build(runs[name])) for name in trained} == trained
    model = project.experiments[study].model
    assert {name: frozen(project.params.encoders[tower.encoder]) for name, tower in model.towers.items()} == towers
    text = (REPOSITORY / "experiments" / f"{study}.yaml").read_text()
    assert all(f"{number:,}" in text for number in {*trained.values(), *towers.values()})
