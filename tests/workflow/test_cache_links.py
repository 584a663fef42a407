"""What a stage publishes and what DVC keeps of it are one file on disk, and no stage ever writes into that file."""

import hashlib
from pathlib import Path

from ..small_pipeline import DIRECTORIES, Repository

STAGE = "tokenizer-tiny"


def cached(repository: Repository) -> dict[str, Path]:
    """The files of DVC's cache by md5."""
    files = (repository.root / ".dvc/cache/files/md5").glob("??/*")
    return {path.parent.name + path.stem: path for path in files}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def assert_linked_to_a_sound_cache(repository: Repository, before: set[str]) -> None:
    """Every file that was not in the cache `before` is the cache's; every cached file is what its name says."""
    cache = cached(repository)
    assert all(md5(path) == name for name, path in cache.items())
    new = {path.name: path for path in (repository.root / DIRECTORIES[STAGE]).iterdir() if md5(path) not in before}
    assert {"tokenizer.json", "manifest.json", "recipe.json"} <= new.keys()
    assert all(path.samefile(cache[md5(path)]) for path in new.values())


def test_both_entrances_leave_links_and_never_write_through_them(repository):
    def vocabulary(size):
        repository.edit("experiments/tiny.yaml", lambda e: e["data"]["tokenizer"].update(vocab_size=size))
        return set(cached(repository))

    before = vocabulary(265)
    assert repository.snakemake(f"{DIRECTORIES[STAGE]}/manifest.json") == {STAGE}
    assert_linked_to_a_sound_cache(repository, before)
    before = vocabulary(270)
    assert f"Running stage '{STAGE}'" in repository.command("dvc", "repro", "--single-item", STAGE).stdout
    assert_linked_to_a_sound_cache(repository, before)
    vocabulary(275)
    repository.command("glassworks", "accept", STAGE)  # writes a recipe
    assert all(md5(path) == name for name, path in cached(repository).items())
    assert before < set(cached(repository))


def test_work_in_progress_is_never_versioned(repository):
    work = repository.root / ".work/train-tiny-0123456789abcdef/checkpoints/step-00000001"
    work.mkdir(parents=True)
    (work / "model.safetensors").write_bytes(b"half a model")
    repository.command("glassworks", "record")
    repository.command("git", "add", "--all")
    assert ".work" not in repository.command("git", "ls-files").stdout
    assert hashlib.md5(b"half a model", usedforsecurity=False).hexdigest() not in cached(repository)
    published = (repository.root / DIRECTORIES["train-tiny"] / "model.safetensors").read_bytes()
    assert hashlib.md5(published, usedforsecurity=False).hexdigest() in cached(repository)
