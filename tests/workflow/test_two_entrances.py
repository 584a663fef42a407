"""One DAG, two entrances, the same bytes: the real snakemake and the real dvc on a small pipeline in a git repository."""

import os
import re
import shutil
from pathlib import Path

import pytest

from ..small_pipeline import DIRECTORIES, REPOSITORY, STAGES, Repository

DOWNSTREAM = {stage: set(STAGES[index:]) for index, stage in enumerate(STAGES)} | {
    "tokenizer-tiny": {"tokenizer-tiny", "train-tiny", "evaluate-tiny-captions", "report"},
    "shards-pictures": {"shards-pictures", "train-tiny", "evaluate-tiny-captions", "report"},
}


def assert_both_idle(repository: Repository) -> None:
    """`dvc repro` runs nothing, so Snakemake has nothing to do after it, either."""
    assert repository.pending() == set()
    assert repository.repro() == set()


def test_after_snakemake_all_both_entrances_have_nothing_to_do(repository):
    assert_both_idle(repository)
    assert len(repository.manifests()) == len(STAGES)
    assert (repository.root / "results/report.html").is_file()


def test_dvc_repro_makes_the_same_bytes_and_leaves_nothing_to_do(repository, empty_repository):
    assert empty_repository.repro() == set(STAGES)
    assert empty_repository.manifests() == repository.manifests()
    assert (empty_repository.root / "dvc.lock").read_text() == (repository.root / "dvc.lock").read_text()
    assert_both_idle(empty_repository)


@pytest.mark.slow
def test_any_stage_made_again_by_either_entrance_has_the_same_manifest(repository):
    before = repository.manifests()
    for number, stage in enumerate(STAGES):
        shutil.rmtree(repository.root / DIRECTORIES[stage])
        if number % 2:
            assert repository.snakemake(f"{DIRECTORIES[stage]}/manifest.json") == {stage}
        else:
            output = repository.command("dvc", "repro", "--force", "--single-item", stage).stdout
            assert f"Running stage '{stage}'" in output
        assert repository.manifests() == before


def test_outputs_that_dvc_brings_back_are_fresh(repository):
    for folder in ("data", "models", "results"):
        shutil.rmtree(repository.root / folder)
    assert repository.pending() == set(STAGES)
    repository.command("dvc", "checkout")
    assert_both_idle(repository)


@pytest.mark.slow
def test_losing_every_tools_memory_changes_nothing(repository):
    shutil.rmtree(repository.root / ".snakemake")
    shutil.rmtree(repository.root / ".work")
    assert_both_idle(repository)


@pytest.mark.slow
def test_a_hit_in_dvcs_run_cache_is_fresh_for_snakemake(repository):
    def steps(count):
        repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=count))

    steps(5)
    assert repository.repro() == DOWNSTREAM["train-tiny"]
    before = repository.manifests()
    steps(4)
    repository.command("dvc", "repro")  # found in the run cache or run again: either way it must be right
    assert_both_idle(repository)
    assert repository.manifests() != before
    steps(5)
    output = repository.command("dvc", "repro").stdout
    assert "Stage 'train-tiny' is cached - skipping run" in output and "Running stage 'train-tiny'" not in output
    assert repository.manifests() == before
    assert_both_idle(repository)


@pytest.mark.slow
def test_another_branch_and_back_by_hand(repository):
    """The trap: Snakemake remembers having run this value, but the files are the other branch's."""
    repository.command("git", "checkout", "--quiet", "-b", "other")
    repository.edit("experiments/tiny.yaml", lambda e: e["optimization"].update(learning_rate=0.02))
    assert repository.snakemake("all") == DOWNSTREAM["train-tiny"]
    repository.commit("another rate")
    other = repository.manifests()
    repository.command("git", "checkout", "--quiet", "main")
    repository.command("dvc", "checkout")
    assert_both_idle(repository)
    assert repository.manifests() != other
    repository.edit("experiments/tiny.yaml", lambda e: e["optimization"].update(learning_rate=0.02))
    assert repository.pending() == DOWNSTREAM["train-tiny"]
    repository.snakemake("all")
    assert repository.manifests() == other


def change_seen_by_both(repository: Repository, tmp_path: Path, first: str) -> None:
    """After a change, both entrances rerun `first` and everything downstream of it, and arrive at the same bytes."""
    twin = Repository(tmp_path / "twin")
    shutil.copytree(repository.root, twin.root, symlinks=True)
    assert repository.pending() == DOWNSTREAM[first]
    assert repository.snakemake("all") == DOWNSTREAM[first]
    assert_both_idle(repository)
    ran = twin.repro()
    assert ran <= DOWNSTREAM[first] and first in ran  # DVC stops early where an output comes out identical
    assert twin.manifests() == repository.manifests()
    assert twin.pending() == set()


def changed_for_dvc(repository: Repository) -> set[str]:
    """The stages that `dvc status` lists: those with a changed parameter or file, without the ones after them."""
    return set(re.findall(r"^([\w-]+):$", repository.command("dvc", "status").stdout, re.MULTILINE))


@pytest.mark.slow
def test_two_parameters_that_swap_values(repository):
    repository.edit("experiments/tiny.yaml", lambda e: e["optimization"].update(learning_rate=0.02, weight_decay=0.01))
    assert repository.pending() == DOWNSTREAM["train-tiny"]
    assert changed_for_dvc(repository) == {"train-tiny", "report"}


@pytest.mark.slow
def test_a_changed_source_package(repository, tmp_path):
    with (repository.root / "src/glassworks/stages/evaluate.py").open("a") as file:
        file.write("\n# a comment\n")
    change_seen_by_both(repository, tmp_path, "evaluate-tiny-captions")


def comment(repository: Repository, file: str) -> None:
    with (repository.root / "src/glassworks" / file).open("a") as source:
        source.write("\n# a comment\n")


def test_how_a_run_is_carried_out_makes_nothing_stale(repository):
    for file in ("runtime/launch.py", "cli/stages.py", "pipeline/slurm.py", "report/view.py", "data/weights/hub.py"):
        comment(repository, file)
    assert_both_idle(repository)


@pytest.mark.slow
def test_the_litter_of_a_file_manager_runs_nothing(repository):
    for name in (".DS_Store", "Thumbs.db", "._000.png"):
        (repository.root / "pictures" / name).write_bytes(b"x")
    assert_both_idle(repository)


def unchanged(output: str) -> set[str]:
    """The stages that ended at once."""
    return set(re.findall(r"^([\w-]+): its inputs have the content of before", output, re.MULTILINE))


@pytest.mark.slow
def test_a_file_that_no_row_names_trains_nothing(repository, tmp_path):
    """The raw files change, the shards do not: every later stage finds its artefact fresh and ends at once."""
    before, provenance = repository.manifests(), repository.root / "provenance/train-tiny.json"
    trained = provenance.read_text()
    (repository.root / "pictures/notes.md").write_text("where these pictures come from\n")
    twin = Repository(tmp_path / "twin")
    shutil.copytree(repository.root, twin.root, symlinks=True)
    output = repository.command("snakemake", "--cores", "2", "all").stdout
    assert unchanged(output) == {"tokenizer-tiny", "train-tiny", "evaluate-tiny-captions"}
    assert provenance.read_text() == trained
    after = repository.manifests()
    assert {name for name in before if before[name] != after[name]} <= {
        "data/raw/pictures/manifest.json",
        "results/report/manifest.json",
    }
    assert_both_idle(repository)
    assert "train-tiny" not in twin.repro()
    assert twin.manifests() == after

    repository.snakemake("--forcerun", "train", "--", "models/tiny/manifest.json")
    assert provenance.read_text() != trained, "asked for by name, it runs"


def test_a_module_that_is_imported_in_a_function_makes_its_users_stale(repository):
    comment(repository, "models/pretrained/begin_captioner.py")
    assert repository.pending() == DOWNSTREAM["train-tiny"]
    assert changed_for_dvc(repository) == {"train-tiny", "evaluate-tiny-captions"}, "both import it"


@pytest.mark.slow
def test_a_deleted_shard(repository, tmp_path):
    before, tar = repository.manifests(), "data/shards/pictures/train-00001.tar"
    content = (repository.root / tar).read_bytes()
    twin = Repository(tmp_path / "twin")
    shutil.copytree(repository.root, twin.root, symlinks=True)
    for each in (repository, twin):
        (each.root / tar).unlink()
    assert repository.snakemake("all") == DOWNSTREAM["shards-pictures"]
    twin.repro()  # DVC brings it back from its cache, or makes it again
    for each in (repository, twin):
        assert (each.root / tar).read_bytes() == content
        assert each.manifests() == before
        assert_both_idle(each)


@pytest.mark.slow
def test_fewer_shards_leave_no_stray(repository, tmp_path):
    repository.edit("params.yaml", lambda p: p["datasets"]["pictures"].update(samples_per_shard=100))
    change_seen_by_both(repository, tmp_path, "shards-pictures")
    assert len(list((repository.root / "data/shards/pictures").glob("train-*.tar"))) == 1


@pytest.mark.slow
def test_a_changed_image_of_the_users_own(repository, tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20), (1, 2, 3)).save(repository.root / "pictures/000.png")
    change_seen_by_both(repository, tmp_path, "fetch-pictures")


def test_how_a_run_is_carried_out_makes_only_the_report_stale(repository):
    repository.edit("experiments/tiny.yaml", lambda e: e["execution"].update(loader_workers=1))
    assert repository.pending() == {"report"}
    assert repository.repro() == {"report"}


@pytest.mark.slow
def test_more_jobs_for_the_shards_change_no_byte(repository):
    before = repository.manifests()
    repository.edit("params.yaml", lambda p: p["datasets"]["pictures"].update(shard_jobs=5))
    assert repository.pending() == {"report"}
    shutil.rmtree(repository.root / "data/shards")
    repository.snakemake("all")
    after = repository.manifests()
    assert {name for name in before if before[name] != after[name]} <= {"results/report/manifest.json"}


def test_a_new_experiment_is_never_overlooked_by_dvc(repository):
    shutil.copy(repository.root / "experiments/tiny.yaml", repository.root / "experiments/second.yaml")
    repository.edit("params.yaml", lambda p: p.update(experiments=["tiny", "second"]))
    run = repository.command("dvc", "repro", succeeds=False)
    assert run.returncode != 0 and "make dvc.yaml" in run.stdout
    repository.command("glassworks", "dvc-yaml")
    assert repository.repro() == {"tokenizer-second", "train-second", "evaluate-second-captions", "report"}


def seeds_of_variants(repository: Repository, *seeds: int) -> None:
    dry = {"set": {"optimization.weight_decay": 0.0, "training.steps": 2}, "seeds": list(seeds)}
    repository.edit("experiments/tiny.yaml", lambda e: e.update(variants={"dry": dry}))


def runs_of_variants(*seeds: int) -> set[str]:
    names = {f"tiny--dry--{seed}" for seed in seeds}
    return {f"train-{name}" for name in names} | {f"evaluate-{name}-captions" for name in names}


@pytest.mark.slow
def test_variants_in_both_entrances(repository, tmp_path):
    """Each seed trains a model on the shards and the tokenizer of the experiment; adding a seed trains one."""
    twin, before = Repository(tmp_path / "twin"), repository.manifests()
    shutil.copytree(repository.root, twin.root, symlinks=True)
    seeds_of_variants(repository, 1, 2)
    assert repository.snakemake("all") == runs_of_variants(1, 2) | {"report"}
    for each in (repository, twin):
        seeds_of_variants(each, 1, 2, 3)
    assert repository.snakemake("all") == runs_of_variants(3) | {"report"}
    twin.command("glassworks", "dvc-yaml")
    assert twin.repro() == runs_of_variants(1, 2, 3) | {"report"}
    after = repository.manifests()
    assert twin.manifests() == after
    assert (twin.root / "dvc.lock").read_text() == (repository.root / "dvc.lock").read_text()
    assert {name for name in before if before[name] != after[name]} == {"results/report/manifest.json"}
    assert len({after[f"models/tiny--dry--{seed}/manifest.json"] for seed in (1, 2, 3)}) == 3

    # the variant overrides the steps, so those of the experiment do not concern it; its evaluations do
    twin.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=5))
    assert twin.pending() == DOWNSTREAM["train-tiny"]
    assert changed_for_dvc(twin) == {"train-tiny", "report"}
    twin.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=4))
    twin.edit("experiments/tiny.yaml", lambda e: e["evaluations"]["captions"].update(beams=1))
    evaluated = {"evaluate-tiny-captions", *(f"evaluate-tiny--dry--{seed}-captions" for seed in (1, 2, 3)), "report"}
    assert twin.pending() == changed_for_dvc(twin) == evaluated


@pytest.mark.slow
def test_locks_of_a_killed_snakemake_do_not_stop_the_next(repository):
    locks = repository.root / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.input.lock").write_text(f"{repository.root}/pictures/000.png\n")
    (locks / "0.output.lock").write_text("results/report/manifest.json\n")
    shutil.rmtree(repository.root / "results/report")
    assert repository.snakemake("all") == {"report"}


@pytest.mark.slow
def test_snakemakes_own_report_opens_offline(repository):
    output = repository.command("snakemake", "--report", "snakemake-report.html").stdout
    for name in ("report.html", "loss.svg", "metrics.svg"):
        assert f"Adding {name}" in output
    page = (repository.root / "snakemake-report.html").read_text()
    assert not re.findall(r"(?:src|href)=[\\'\"]*https?://[^ >]*\.(?:js|css|png|svg|woff)", page)


def test_wrong_configuration_stops_before_any_job(repository):
    before = repository.manifests()
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(setps=3))
    for command in (["snakemake", "all"], ["dvc", "repro"], ["glassworks", "train", "tiny"]):
        run = repository.command(*command, succeeds=False)
        assert run.returncode != 0
        assert "experiments/tiny.yaml: training.setps: unknown key; did you mean 'steps'?" in run.stdout
        assert "Traceback" not in run.stdout
        if (
            command[0] == "dvc"
        ):  # it takes a stage's outputs away before it runs the command, and keeps them in its cache
            repository.command("dvc", "checkout")
        assert repository.manifests() == before


def test_the_command_line_override_that_dvc_would_not_see_is_refused(repository):
    run = repository.command("snakemake", "all", "--config", "seed=4", succeeds=False)
    assert run.returncode == 2 and "params.yaml" in run.stdout


def test_the_committed_dvc_yaml_is_current():
    from glassworks.config.project import load_project
    from glassworks.pipeline.dvc import compile_dvc
    from glassworks.pipeline.table import Table

    assert (REPOSITORY / "dvc.yaml").read_text() == compile_dvc(Table(load_project(REPOSITORY))), "run `make dvc.yaml`"
    assert (REPOSITORY / ".dvc").is_dir()


@pytest.mark.slow
def test_more_cores_than_there_are_are_not_used(repository):
    """Jobs would share them, and two trainings at once are slower than one after the other."""
    there = len(os.sched_getaffinity(0))
    repository.edit("params.yaml", lambda p: p["report"].update(title="another"))
    run = repository.command("snakemake", "--verbose", "--cores", str(there + 62), "all")
    assert f"Provided cores: {there}" in run.stdout
