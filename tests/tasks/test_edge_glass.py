"""Edge Glass at the document's scale: the experiments are accepted as they are committed, and built on the meta device."""

from pathlib import Path

import pytest
import torch
import yaml

from glassworks.config.project import load_project
from glassworks.models import adapters, saving
from glassworks.models.fused_decoder import FusedDecoder, is_of_base
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import decoder_config
from glassworks.models.settings.fusion import FusedDecoder as Shape
from glassworks.tasks.fusion.settings import Fusion

from ..small_pipeline import REPOSITORY

QWEN = {
    "model_type": "qwen2",
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
"""config.json of Qwen2.5-7B-Instruct."""
WIDTHS = {"image": 1024, "audio": 512, "text": 384}
"""Features of CLIP ViT-L/14, Whisper base and all-MiniLM-L6-v2."""
LORA = 28 * 32 * ((3584 + 3584) + (3584 + 512))
"""Rank 32 of the projections to queries and values."""
TRAINED = {
    "vision_text_qwen": {"image": 1024, "text": 384},
    "trimodal_qwen": {"image": 1024, "audio": 5 * 512, "text": 384},
}
"""Inputs of the linear map of each modality: five tokens of speech are joined."""


def test_the_small_experiment_is_accepted_with_the_encoder_that_it_names(tmp_path):
    text = (REPOSITORY / "experiments/fuse_spoken.yaml").read_text()
    entries = [line.removeprefix("#   ") for line in text.split("\ntask:")[0].splitlines() if line.startswith("#   ")]
    added = yaml.safe_load("\n".join(entries))
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params = {**params, "encoders": params["encoders"] | added["encoders"], "experiments": added["experiments"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/fuse_spoken.yaml").write_text(text)
    found = load_project(tmp_path).experiments["fuse_spoken"]
    assert isinstance(found, Fusion) and found.training.ctc == {"audio": 1.0}


@pytest.fixture
def load(tmp_path):
    def loaded(name):
        text = (REPOSITORY / "experiments" / f"{name}.yaml").read_text()
        entries = [
            line.removeprefix("#   ") for line in text.split("\ntask:")[0].splitlines() if line.startswith("#   ")
        ]
        params = yaml.safe_load("\n".join(entries).replace("COMMIT", "a" * 40).replace("/data/", "data/"))
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        (tmp_path / "experiments").mkdir()
        (tmp_path / "experiments" / f"{name}.yaml").write_text(text)
        for dataset in params["datasets"].values():
            (tmp_path / dataset["path"]).mkdir(parents=True)
        return load_project(tmp_path).experiments

    return loaded


@pytest.mark.parametrize("name", list(TRAINED))
def test_the_experiments_train_what_the_document_estimates(load, name):
    experiment = load(name)[name]
    assert isinstance(experiment, Fusion) and experiment.base_precision == ("bf16", "int8")
    network = experiment.model
    shape = network.plain(Shape)
    text = decoder_config(dict(QWEN), Path("config.json"))
    towers = {
        modality: {"width": WIDTHS[modality], "input": tower.plain.model_dump()}
        for modality, tower in network.towers.items()
    }
    with saving.without_weights():
        base = LanguageModel(text, QWEN["vocab_size"])
        frozen = sum(one.numel() for one in base.parameters())
        adapters.attach(base, network.adapter, seed=0)
        model = FusedDecoder(
            shape.model_copy(update={"decoder": text, "language_model": None}), QWEN["vocab_size"], towers, base.decoder
        )
    assert frozen == 7_615_616_512, "as published"
    trained = {n: one.numel() for n, one in model.named_parameters() if one.requires_grad}
    fusion = sum(2 * WIDTHS[modality] + 3584 * inputs + 2 * 3584 for modality, inputs in TRAINED[name].items())
    assert sum(count for n, count in trained.items() if is_of_base(n)) == LORA == 10_092_544
    assert sum(count for n, count in trained.items() if not is_of_base(n)) == fusion
    found = sum(trained.values())
    assert f"{found:,} trained parameters" in (REPOSITORY / "experiments" / f"{name}.yaml").read_text()
    estimates = {"vision_text_qwen": (5e6, 15e6), "trimodal_qwen": (None, 25e6)}[name]
    assert abs(found / estimates[1] - 1) < 0.05
    assert estimates[0] is None or abs(fusion / estimates[0] - 1) < 0.05
    assert torch.device("meta") == next(iter(model.parameters())).device


def test_the_recursive_experiment_trains_what_the_document_estimates(load):
    experiments = load("trimodal_trm")
    sizes = []
    for name in ("recursive", "plain"):
        experiment = experiments[f"trimodal_trm--{name}--1"]
        assert isinstance(experiment, Fusion)
        towers = {
            modality: {"width": WIDTHS[modality], "input": tower.plain.model_dump()}
            for modality, tower in experiment.model.towers.items()
        }
        with saving.without_weights():
            model = FusedDecoder(experiment.model.plain(Shape), experiment.data.tokenizer.vocab_size, towers)
        sizes.append(sum(one.numel() for one in model.parameters() if one.requires_grad))
        assert model.decoder.config.recursion is None or model.decoder.config.recursion.applications == 16
    assert sizes[0] == sizes[1] and abs(sizes[0] / 40e6 - 1) < 0.01
    assert f"{sizes[0]:,} trained parameters" in (REPOSITORY / "experiments/trimodal_trm.yaml").read_text()
