"""A small pipeline in a temporary git repository, run by the real snakemake and the real dvc.

It is built once per test session (by `snakemake all`) and copied for every test. The repository holds a copy of the source code, so that a test can change it.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
COPIED = ("Snakefile", "workflow", "profiles", "src", ".dvcignore", ".gitignore")
BIN = Path(sys.executable).parent

PARAMS = {
    "seed": 3,
    "datasets": {
        "pictures": {
            "source": "folder",
            "path": "pictures",
            "splits": {"validation": 0.2, "test": 0.3},
            "samples_per_shard": 8,
            "shard_jobs": 2,
        }
    },
    "experiments": ["tiny"],
    "report": {"gallery": 4},
}
EXPERIMENT = {
    "task": "captioning",
    "data": {"dataset": "pictures", "tokenizer": {"vocab_size": 280}},
    "model": {
        "encoder": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2},
        "decoder": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 16},
    },
    "optimization": {"warmup_steps": 1, "learning_rate": 0.01, "weight_decay": 0.02},
    "training": {"steps": 4, "batch_size": 8, "micro_batches": 2, "validate_every": 2},
    "execution": {"checkpoint_every": 1},
    "evaluations": {"captions": {"beams": 2, "bootstrap": 100, "meteor": False}},
}
DIRECTORIES = {
    "fetch-pictures": "data/raw/pictures",
    "records-pictures": "data/records/pictures",
    "shards-pictures": "data/shards/pictures",
    "tokenizer-tiny": "data/tokenizers/tiny",
    "train-tiny": "models/tiny",
    "evaluate-tiny-captions": "results/tiny/captions",
    "report": "results/report",
}
STAGES = list(DIRECTORIES)


class Repository:
    """A git repository with a small pipeline in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environment = keep | {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(root / "src"),
            "DVC_NO_ANALYTICS": "1",
        }

    def command(self, *arguments: str, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
        run = subprocess.run(
            arguments,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        if succeeds and run.returncode:
            raise AssertionError(f"{' '.join(arguments)} ended with {run.returncode}:\n{run.stdout}")
        return run

    def snakemake(self, *arguments: str) -> set[str]:
        """Run snakemake; the stages it ran (or with -n would run)."""
        return self._stages(self.command("snakemake", "--cores", "2", *arguments).stdout)

    def pending(self) -> set[str]:
        """The stages that `snakemake all` would run."""
        return self._stages(self.command("snakemake", "--dry-run", "all").stdout)

    def repro(self) -> set[str]:
        """Run `dvc repro`; the stages it ran."""
        return set(re.findall(r"Running stage '([^']+)'", self.command("dvc", "repro").stdout))

    def dvc_is_clean(self) -> bool:
        return "up to date" in self.command("dvc", "status").stdout

    def manifests(self) -> dict[str, bytes]:
        found = [
            path
            for folder in ("data", "models", "results")
            for path in sorted((self.root / folder).rglob("manifest.json"))
        ]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in found}

    def edit(self, file: str, change: Callable[[dict], None]) -> None:
        content = yaml.safe_load((self.root / file).read_text())
        change(content)
        (self.root / file).write_text(yaml.safe_dump(content, sort_keys=False))

    def commit(self, message: str = "a change") -> None:
        self.command("git", "add", "--all")
        self.command(
            "git",
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "commit",
            "--quiet",
            "--allow-empty",
            "-m",
            message,
        )

    @staticmethod
    def _stages(output: str) -> set[str]:
        """Stages from Snakemake's messages, one of which every rule prints."""
        patterns = {
            r"Fetching the raw files of (\w+)": "fetch-{}",
            r"Making records of (\w+)": "records-{}",
            r"(?:Writing|Publishing the) shards of (\w+)": "shards-{}",
            r"Fetching the weights (\w+)": "weights-{}",
            r"Training the tokenizer of ([\w-]+)": "tokenizer-{}",
            r"(?:Tokenizing|Packing) the texts of ([\w-]+)": "pack-{}",
            r"Training (?!the )([\w-]+)": "train-{}",
            r"Evaluating ([\w-]+: \w+)": "evaluate-{}",
        }
        found = {
            name.format(subject.replace(": ", "-"))
            for pattern, name in patterns.items()
            for subject in re.findall(pattern, output)
        }
        return found | ({"report"} if "Writing results/report.html" in output else set())


def create(root: Path) -> Repository:
    """A repository with the configuration above, committed, nothing run."""
    root.mkdir(parents=True)
    repository = Repository(root)
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            # with the compiled modules, but not one that another process is writing
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copy(source, root / name)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    (root / "experiments").mkdir()
    (root / "experiments/tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    _draw_pictures(root / "pictures")
    repository.command("git", "init", "--quiet", "--initial-branch=main")
    repository.command("dvc", "init", "--quiet")
    for name in ("config", "plots.html"):
        shutil.copy(REPOSITORY / ".dvc" / name, root / ".dvc" / name)
    repository.command("glassworks", "dvc-yaml")
    repository.commit("the pipeline")
    return repository


def _draw_pictures(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    colours = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 220), "grey": (128, 128, 128)}
    rows = ["file,caption"]
    for index in range(40):
        name, colour = list(colours.items())[index % 4]
        image = Image.new("RGB", (20, 20), colour)
        image.putpixel((index % 20, index // 20), (255, 255, 255))
        image.save(folder / f"{index:03d}.png")
        rows += [f"{index:03d}.png,a {name} square", f"{index:03d}.png,the square is {name}"]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository after `snakemake all`, shared by all processes of the session; copy it, never change it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root = shared / "built"
    with (shared / "built.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            repository = create(root)
            repository.snakemake("all")
            repository.commit("after snakemake all")
            (root / ".git/info/exclude").write_text("/done\n")
            (root / "done").touch()
    return root


@pytest.fixture
def repository(built: Path, tmp_path: Path) -> Repository:
    """A copy of the built repository."""
    shutil.copytree(built, tmp_path / "repository", symlinks=True)
    return Repository(tmp_path / "repository")


@pytest.fixture
def empty_repository(tmp_path: Path) -> Repository:
    """A repository in which nothing has been run."""
    return create(tmp_path / "empty")
