"""The stage `pack` in both entrances: parallel jobs, then one artefact, which training reads."""

import yaml

from ..small_pipeline import Repository

EXPERIMENT = {
    "task": "language_modelling",
    "data": {"dataset": "pictures", "tokenizer": {"kind": "characters"}},
    "model": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 48},
    "training": {"steps": 2, "batch_size": 2, "micro_batches": 2},
    "execution": {"pack_jobs": 2},
    "evaluations": {},
}


def test_rows_are_packed_by_jobs_before_training_and_only_when_they_are_stale(repository: Repository):
    (repository.root / "experiments/lm.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    repository.edit("params.yaml", lambda params: params["experiments"].append("lm"))
    repository.command("glassworks", "dvc-yaml")
    assert repository.snakemake("all") == {"tokenizer-lm", "pack-lm", "train-lm", "report"}
    assert repository.repro() == set()
    repository.edit("experiments/lm.yaml", lambda e: e["execution"].update(pack_jobs=1))
    assert repository.pending() == {"report"}, "which shows it"
    repository.edit("experiments/lm.yaml", lambda e: e["model"].update(width=8))
    assert repository.pending() == {"train-lm", "report"}
    repository.edit("experiments/lm.yaml", lambda e: e["model"].update(max_tokens=32))
    assert repository.pending() == {"pack-lm", "train-lm", "report"}
