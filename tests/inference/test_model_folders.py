"""Commands find the tokenizer that a model was trained with."""

import shutil
from pathlib import Path

import pytest

from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.artifacts.publication import seal
from glassworks.errors import ArtifactError
from glassworks.inference.model_folders import find_tokenizer


def test_the_tokenizer_of_a_model_is_the_one_that_its_recipe_names(tmp_path: Path, tokenizer: Path) -> None:
    """A variant has no tokenizer folder of its own name, and an experiment may have that of published weights."""
    for name in ("tokenizers/base", "tokenizers/other", "weights/published"):
        folder = tmp_path / "data" / name
        shutil.copytree(tokenizer, folder)
        seal(folder, {"name": name}, {})
        model = tmp_path / "models" / f"{folder.name}--dry--1"
        model.mkdir(parents=True)
        write_json(
            model / "recipe.json", {"inputs": {"tokenizer/manifest.json": sha256_file(folder / "manifest.json")}}
        )
        assert find_tokenizer(model) == folder
    shutil.rmtree(tmp_path / "data/tokenizers/base")
    with pytest.raises(ArtifactError, match="put the tokenizer that the model was trained with beside it"):
        find_tokenizer(tmp_path / "models/base--dry--1")
