"""Runs and projects of other tests, and what the tests on a GPU need beside them."""

from pathlib import Path

import pytest
import torch

from ..tasks.test_alignment import prepared as aligned_project
from ..tasks.test_fusion import made as fused_project
from ..tasks.test_puzzles import trained as boards_project
from ..tasks.test_vision_language_stages import trained as seeing_project
from ..training.pictures import make_inputs

__all__ = ["aligned_project", "boards_project", "fused_project", "seeing_project"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))
