"""`glassworks profile`: the time of one stage, with nothing published."""

import json

import pytest

from glassworks.cli.running import runner
from glassworks.diagnosis.stage_profile import package_of, profile_stage
from glassworks.errors import ArtifactError, ConfigError

PARAMS = {"datasets": {"pictures": {"source": "folder", "path": "pictures", "splits": {"validation": 0.2}}}}


@pytest.fixture
def recorded(project, write_image):
    for number in range(8):
        write_image(project.root / "pictures" / f"{number}.png", seed=number)
    rows = "".join(f"{number}.png,picture {number}\n" for number in range(8))
    (project.root / "pictures/captions.csv").write_text("file,caption\n" + rows)
    project.configure(PARAMS)
    project.run("fetch-pictures")
    project.run("records-pictures")
    return project


def files(project) -> set[str]:
    return {str(path) for folder in ("data", ".work") for path in (project.root / folder).rglob("*")}


def test_names_packages_and_functions_and_publishes_nothing(recorded, glassworks, monkeypatch):
    monkeypatch.chdir(recorded.root)
    before = files(recorded)
    output = glassworks("profile", "shards-pictures")
    assert files(recorded) == before
    assert output.splitlines()[0].startswith("shards-pictures: ") and "nothing is published" in output
    assert "package (own time)" in output and "function, with all it calls" in output
    found = json.loads(glassworks("profile", "shards-pictures", "--json"))
    assert {"glassworks.data", "python"} <= {row["name"] for row in found["packages"]}
    assert any(row["name"].startswith("stages/shards.py:") for row in found["functions"])
    assert sum(row["seconds"] for row in found["packages"]) == pytest.approx(found["seconds"], rel=0.02)
    seconds = [row["seconds"] for row in found["functions"]]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] <= found["seconds"]


def test_a_stage_that_fails_leaves_no_scratch_folder(recorded):
    def fail(context):
        raise ConfigError("this stage fails")

    before = files(recorded)
    with pytest.raises(ConfigError, match="this stage fails"):
        profile_stage(recorded.table, recorded.table["shards-pictures"], lambda: fail)
    assert files(recorded) == before


def test_missing_inputs_and_trainings_are_refused(project):
    lm = {"task": "language_modelling", "data": {"dataset": "pictures", "tokenizer": {"vocab_size": 280}}}
    table = project.configure(PARAMS, lm=lm | {"training": {"steps": 1}})
    with pytest.raises(ArtifactError, match="records-pictures needs"):
        profile_stage(table, table["records-pictures"], lambda: runner("records"))
    with pytest.raises(ConfigError, match="`glassworks train lm --profile` shows"):
        profile_stage(table, table["train-lm"], lambda: runner("train"))


@pytest.mark.parametrize(
    ("function", "package"),
    [
        (("~", 0, "<built-in method torch.conv2d>"), "torch"),
        (("~", 0, "<built-in method posix.stat>"), "python"),
        (("~", 0, "<built-in method builtins.len>"), None),
        (("~", 0, "<method 'append' of 'list' objects>"), None),
        ((json.__file__, 1, "loads"), "python"),
        ((pytest.__file__, 1, "main"), "pytest"),
    ],
)
def test_a_function_belongs_to_a_package(function, package):
    assert package_of(function) == package
