"""A project with a trained language model and a trained captioner, and the command line called in it."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..conftest import SmallProject

TRAINING = {"steps": 2, "batch_size": 2, "micro_batches": 1, "validate_every": 1}
OPTIMIZATION = {"learning_rate": 0.01, "warmup_steps": 1}
LANGUAGE_MODEL = {
    "task": "language_modelling",
    "data": {"dataset": "words", "tokenizer": {"vocab_size": 280}},
    "model": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 16},
    "optimization": OPTIMIZATION,
    "training": TRAINING,
    "evaluations": {"language": {"prompts": ["line"], "temperatures": [0], "bootstrap": 100}},
}
CAPTIONER = {
    "task": "captioning",
    "data": {"dataset": "pictures", "tokenizer": {"vocab_size": 280}},
    "model": {
        "encoder": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2},
        "decoder": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 16},
    },
    "optimization": OPTIMIZATION,
    "training": TRAINING,
    "evaluations": {"captions": {"beams": 2, "bootstrap": 100, "meteor": False}},
}
SPLITS = {"validation": 0.2, "test": 0.3}
DATASETS = {
    "words": {"source": "texts", "path": "words", "splits": SPLITS},
    "pictures": {"source": "folder", "path": "pictures", "splits": SPLITS},
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """The project with the artefacts of both experiments. Copy what a test changes."""
    project = SmallProject(tmp_path_factory.mktemp("project"))
    (project.root / "words").mkdir()
    for number in range(40):
        (project.root / f"words/{number}.txt").write_text(f"line {number} of the | `words`")
    (project.root / "pictures").mkdir()
    with (project.root / "pictures/captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "caption"])
        for number in range(20):
            colour = np.random.default_rng(number).integers(0, 256, 3, dtype=np.uint8)
            Image.fromarray(np.broadcast_to(colour, (16, 16, 3)).copy()).save(project.root / f"pictures/{number}.png")
            rows.writerow([f"{number}.png", f"square {number}"])
    words = {**DATASETS["words"], "path": str(project.root / "words")}  # an absolute path, which is not published
    table = project.configure(
        {"datasets": {**DATASETS, "words": words}, "experiments": ["lm", "captioner"]},
        lm=LANGUAGE_MODEL,
        captioner=CAPTIONER,
    )
    (project.root / "CITATION.cff").write_text(
        "cff-version: 1.2.0\nauthors:\n- given-names: Ada\n  family-names: Lovelace\n"
    )
    for stage in table:
        if stage.kind != "report":
            project.run(stage.name)
    return project


@pytest.fixture
def here(trained: SmallProject, monkeypatch: pytest.MonkeyPatch) -> SmallProject:
    """The same project in the current folder."""
    monkeypatch.chdir(trained.root)
    return trained


@pytest.fixture(scope="session")
def folders(trained: SmallProject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both models, published once. Copy what a test changes."""
    from glassworks.publishing.folder import publish

    parent = tmp_path_factory.mktemp("published")
    for name in ("lm", "captioner"):
        publish(trained.table, name, parent / name)
    return {name: parent / name for name in ("lm", "captioner")}
