"""Published weights are stages like any other: both entrances make them, and both see a change."""

import json

import torch
from safetensors.torch import save_file

from ..small_pipeline import Repository

MANIFEST = "data/weights/mine/manifest.json"


def write_model(repository: Repository, value: float) -> None:
    folder = repository.root / "mine"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "of this project"}))
    save_file({"embed.weight": torch.full((3, 4), value)}, folder / "model.safetensors")


def test_both_entrances_make_weights_and_see_a_change_of_them(empty_repository):
    repository = empty_repository
    write_model(repository, 1.0)
    repository.edit("params.yaml", lambda params: params.update(weights={"mine": {"source": "local", "path": "mine"}}))
    repository.command("glassworks", "dvc-yaml")
    repository.commit("weights")
    assert "weights-mine" in repository.pending()
    assert repository.snakemake(MANIFEST) == {"weights-mine"}
    first = (repository.root / MANIFEST).read_bytes()
    assert "weights-mine" not in repository.pending()
    assert "up to date" in repository.command("dvc", "status", "weights-mine").stdout
    write_model(repository, 2.0)
    assert "weights-mine" in repository.pending()
    assert "Running stage 'weights-mine'" in repository.command("dvc", "repro", "--single-item", "weights-mine").stdout
    assert "weights-mine" not in repository.pending()
    assert (repository.root / MANIFEST).read_bytes() != first
    assert repository.command("glassworks", "verify", "weights-mine").stdout.count("every digest is right") == 1
