"""The stages `features` and `evaluate` on a device: the same bytes again, and features near those of the CPU."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ..tasks import test_alignment as alignment
from ..tasks import test_vision_language_stages as vision_language
from .runs import GPU, on

DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


@pytest.mark.parametrize("device", DEVICES)
def test_features_have_one_set_of_bytes_and_are_those_of_the_cpu(device, aligned_project, tmp_path):
    project = aligned_project.copy(tmp_path / "project")
    project.configure(on(device, alignment.PARAMS), stored=alignment.EXPERIMENT)
    folder, found = project.root / "data/features/eye/pictures", []
    known = {file.name: load_file(file)["features"] for file in folder.glob("*.safetensors")}
    for _ in range(2):
        shutil.rmtree(folder)
        shutil.rmtree(project.root / ".work", ignore_errors=True)
        alignment.build(project, "features-eye-pictures")
        found.append({file.name: file.read_bytes() for file in folder.glob("*.safetensors")})
    assert found[0] == found[1] and known
    for name, features in known.items():
        torch.testing.assert_close(load_file(folder / name)["features"], features, rtol=1e-3, atol=1e-4)
    assert json.loads((folder / "recipe.json").read_text())["fingerprint"]["device"] == device


@pytest.mark.parametrize("device", DEVICES)
def test_an_evaluation_has_one_set_of_bytes_and_the_samples_of_the_cpu(device, seeing_project, tmp_path):
    project, found = seeing_project.copy(tmp_path / "project"), []
    for where in ("cpu", device, device):
        evaluation = {**vision_language.EXPERIMENT["evaluations"]["questions"], "device": where}
        experiment = {**vision_language.EXPERIMENT, "evaluations": {"questions": evaluation}}
        project.configure(vision_language.PARAMS, stored=experiment)
        shutil.rmtree(project.root / "results", ignore_errors=True)
        folder = project.run("evaluate-stored-questions")
        found.append({name: (folder / name).read_bytes() for name in ("metrics.json", "items.jsonl")})
    assert found[1] == found[2]
    cpu, mine = (json.loads(one["metrics.json"]) for one in found[:2])
    assert mine.keys() == cpu.keys() and mine["samples"] == cpu["samples"] > 0
    if device == "cpu":
        assert found[0] == found[1]
