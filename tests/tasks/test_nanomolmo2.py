"""The three stages of nanoMolmo2 at the document's scale: accepted as they are committed, and built on the meta device."""

from pathlib import Path

import pytest
import torch
import yaml

from glassworks.config.packing import TileTokens
from glassworks.config.project import load_project
from glassworks.config.tiles import Crops, Tiling
from glassworks.models.pretrained.language_models import decoder_config
from glassworks.models.settings.vision_language import VisionLanguage as Shape
from glassworks.models.vision_language import VisionLanguageModel
from glassworks.tasks.vision_language.settings import VisionLanguage

from ..small_pipeline import REPOSITORY

STAGES = ["nanomolmo2_captions", "nanomolmo2_questions", "nanomolmo2_long"]
QWEN = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
"""config.json of Qwen2.5-0.5B."""
TOWER = {"encoder": "clip_l", "width": 2 * 1024, "tokens": 1 + 24**2, "settings": {}, "weights": ""}
"""The features of two blocks of CLIP ViT-L/14-336, joined, with the class token."""


@pytest.fixture
def project(tmp_path):
    header = (REPOSITORY / "experiments" / f"{STAGES[0]}.yaml").read_text().split("task:")[0]
    entries = [line.removeprefix("#   ") for line in header.splitlines() if line.startswith("#   ")]
    params = yaml.safe_load("\n".join(entries).replace("COMMIT", "a" * 40).replace("/data/", "data/"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "experiments").mkdir()
    for name in STAGES:
        (tmp_path / "experiments" / f"{name}.yaml").write_text(
            (REPOSITORY / "experiments" / f"{name}.yaml").read_text()
        )
    for dataset in params["datasets"].values():
        (tmp_path / dataset["path"]).mkdir(parents=True)
    return load_project(tmp_path)


def test_the_stages_are_accepted_with_the_entries_that_the_first_one_names_and_with_published_rates(project):
    found = [project.experiments[name] for name in STAGES]
    assert all(isinstance(one, VisionLanguage) for one in found)
    assert [one.model.from_ for one in found] == [None, *STAGES[:2]]
    assert [one.packing().row_tokens for one in found] == [2536, 8192, 16_384]
    assert [one.packing().images.tokens for one in found] == [144] * 3
    frames = [one.packing().images.frames for one in found]
    assert frames[0] is None and [(one.tokens, one.clips.frames, one.clips.rate) for one in frames[1:]] == [
        (64, 64, 2),
        (64, 128, 2),
    ]
    assert 128 * (64 + 2 + len("128.0 ")) < found[2].packing().row_tokens
    tiles = [one.packing().images.tiles for one in found]
    assert tiles == [TileTokens(crops=Crops(most=12, margin=4, side=336, grid=24), window=2)] * 3
    longest = max(
        len(tiles[0].ids(Tiling(rows, columns))) for rows in range(1, 13) for columns in range(1, 12 // rows + 1)
    )
    assert longest == 1302 and 146 + longest < found[0].packing().row_tokens
    connector = [one.optimization.groups["connector"] for one in found]
    assert [one.learning_rate for one in connector] == [2e-4, 5e-6, 5e-6]
    assert [one.optimization.learning_rate for one in found] == [2e-5, 1e-5, 1e-5]
    assert (connector[0].warmup_steps, found[0].optimization.warmup_steps) == (200, 2000)


def test_the_model_has_the_parameters_of_its_parts(project):
    shape = project.experiments[STAGES[0]].model.plain(Shape)
    text = decoder_config(dict(QWEN), Path("config.json"))
    with torch.device("meta"):
        model = VisionLanguageModel(
            shape.model_copy(update={"decoder": text, "language_model": None}), QWEN["vocab_size"], TOWER
        )
    counts = {name: sum(one.numel() for one in part.parameters()) for name, part in model.named_children()}
    pooling, projector = 4 * (2048**2 + 2048), 2 * 2048 * 4864 + 4864 * 896
    tokens = {"special": 3 * 896, "special_tiles": 4 * 896}
    assert counts == {"decoder": 494_032_768, "connector": pooling + projector, **tokens}
    assert sum(counts.values()) == 535_105_536
    header = (REPOSITORY / "experiments" / f"{STAGES[0]}.yaml").read_text()
    assert f"# {sum(counts.values()):,} trained parameters" in header
    later = project.experiments[STAGES[1]].model.plain(Shape)
    with torch.device("meta"):
        seeing = VisionLanguageModel(
            later.model_copy(update={"decoder": text, "language_model": None}), QWEN["vocab_size"], TOWER
        )
    added = {name: one.numel() for name, one in seeing.state_dict().items() if name not in model.state_dict()}
    assert added == {"special_frames.weight": 3 * 896}
