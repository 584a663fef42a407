"""The alignment studies outside `all`: accepted as they are committed, with the parameters that their headers name, on the meta device."""

import pytest
import torch
import yaml

from glassworks.config.project import load_project
from glassworks.models.alignment import Alignment, head_of
from glassworks.models.settings.alignment import Alignment as Heads

from ..small_pipeline import REPOSITORY

FEATURES = {
    "efficientnet": (1280, None),
    "efficientnet_map": (112, 81),
    "efficientnet_map_mean": (112, None),
    "minilm": (384, None),
}
"""Width of the features of an encoder, and its tokens if it does not pool them."""


def load(root, *names):
    """The project with the entries of params.yaml that the headers of experiments ask for."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text()) | {"experiments": list(names)}
    (root / "experiments").mkdir()
    for name in names:
        text = (REPOSITORY / "experiments" / f"{name}.yaml").read_text()
        (root / "experiments" / f"{name}.yaml").write_text(text)
        header = text.split("task:")[0].splitlines()
        entries = yaml.safe_load("\n".join(line.removeprefix("#   ") for line in header if line.startswith("#   ")))
        for section in entries.keys() & {"datasets", "weights", "encoders"}:
            params[section] |= entries[section]
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return load_project(root)


def build(model):
    """The heads on the meta device; tokens and widths are those of the encoders."""
    towers = {}
    for name, tower in model.towers.items():
        width, tokens = FEATURES[tower.encoder]
        towers[name] = {"width": width, **({"head": tower.head} if tower.head else {})}
        if head_of(towers[name], model) == "perceiver":
            towers[name]["tokens"] = tokens
    with torch.device("meta"):
        return Alignment(model.plain(Heads), towers)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("align_perceiver", {"mean": 292_576, "perceiver": 292_128}),
        ("align_perceiver_scenes", {"mean": 292_576, "perceiver": 292_128, "positions": 294_032}),
    ],
)
def test_the_variants_have_equal_parameters_and_three_seeds(tmp_path, study, expected):
    project = load(tmp_path, study)
    heads, totals = {}, set()
    for variant, runs in project.variants[study].items():
        assert [seed for seed, _ in runs] == [1, 2, 3]
        model = build(project.experiments[runs[0][1]].model)
        heads[variant] = count(model.heads["image"])
        totals.add(count(model))
    assert heads == expected
    assert max(heads.values()) / min(heads.values()) < 1.01 and max(totals) / min(totals) < 1.01
