"""Snakemake gives a training half of the cores while another can run beside it; its bytes are those of all cores."""

import json
import os
import shutil

import pytest


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one core nothing runs side by side")
def test_two_trainings_share_the_cores_unless_bytes_depend_on_them(repository):
    wanted = repository.manifests()["models/tiny/manifest.json"]
    for name in ("second", "third"):
        shutil.copy(repository.root / "experiments/tiny.yaml", repository.root / f"experiments/{name}.yaml")
        repository.edit(f"experiments/{name}.yaml", lambda e: e["data"].update(tokenizer={"of": "tiny"}))
        repository.edit(f"experiments/{name}.yaml", lambda e: e.update(evaluations={}))
    repository.edit("experiments/second.yaml", lambda e: e["training"].update(steps=5))
    repository.edit("experiments/third.yaml", lambda e: e["training"].update(reduction="ddp"))
    repository.edit("params.yaml", lambda p: p.update(experiments=["tiny", "second", "third"]))
    shutil.rmtree(repository.root / "models")
    repository.snakemake("all")

    def workers(experiment: str) -> int:
        return json.loads((repository.root / f"provenance/train-{experiment}.json").read_text())["workers"]

    assert (workers("tiny"), workers("second"), workers("third")) == (1, 1, 2)
    assert repository.manifests()["models/tiny/manifest.json"] == wanted
