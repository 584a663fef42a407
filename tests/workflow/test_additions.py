"""The file system is the registry: a source, an encoder, a task and an evaluation are new files and YAML; nothing that is there is edited."""

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

ADDITIONS = Path(__file__).parent / "additions"


def test_a_source_an_encoder_a_task_and_an_evaluation_are_new_files_and_yaml_only(repository):
    shutil.copytree(ADDITIONS, repository.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (repository.root / "palette").mkdir()
    (repository.root / "palette/config.json").write_text("{}")
    projection = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    save_file({"projection": projection}, repository.root / "palette/model.safetensors")

    def list_them(params):
        params["datasets"]["colours"] = {"source": "colours", "samples": {"train": 60, "validation": 8, "test": 40}}
        params["weights"] = {"palette": {"source": "local", "path": "palette"}}
        params["experiments"] = ["tiny", "colours"]

    repository.edit("params.yaml", list_them)
    ran = repository.snakemake("all")
    assert {"records-colours", "shards-colours", "weights-palette", "train-colours"} <= ran
    assert {"evaluate-colours-accuracy", "evaluate-colours-on_training_images", "report"} <= ran
    assert "train-tiny" not in ran and "tokenizer-colours" not in ran
    changed = repository.command("git", "status", "--porcelain", "--", "src", "workflow", "Snakefile").stdout
    assert changed and all(line.startswith("??") for line in changed.splitlines()), changed
    assert repository.repro() == set()

    metrics = json.loads((repository.root / "results/colours/accuracy/metrics.json").read_text())
    assert metrics["samples"] == 40 and metrics["systems"]["model"]["accuracy"]["value"] > 0.9
    page = (repository.root / "results/report.html").read_text()
    words = " ".join(re.sub("<[^>]*>", " ", page).split())
    assert "scored on 40 images of the test split and 20 images of the train split" in words
    assert "By Accuracy the model" in words and "Images of one colour" in words and "most frequent class" in words

    evaluations = {"evaluate-colours-accuracy", "evaluate-colours-on_training_images"}
    users = {"encoders/mean_colour/encoder.py": {"train-colours"}, "evaluation/accuracy/score.py": set()}
    for name, trained in users.items():
        file = repository.root / "src/glassworks" / name
        before = file.read_text()
        file.write_text(f"{before}\n# a comment\n")
        assert repository.pending() == {*trained, *evaluations, "report"}
        file.write_text(before)
