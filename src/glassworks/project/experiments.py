"""`glassworks new experiment`: a copy of an experiment, on another data set if one is named, listed in params.yaml.

The whole project is validated before anything is written.
"""

from collections.abc import Callable
from pathlib import Path

import yaml

from glassworks.config.base import nearest, read_yaml
from glassworks.config.project import PARAMS, load_project
from glassworks.errors import ConfigError
from glassworks.project.yaml_edits import NAME, check, read_source, scalars, with_item, write


def new_experiment(root: Path, name: str, like: str, dataset: str | None, show: Callable[[str], None]) -> None:
    """Write experiments/NAME.yaml as a copy of `like`, and pass what was done to `show`.

    Raises `ConfigError` for a name that is taken or unknown, for an experiment that trains on several data sets, and for a copy with a fault.
    """
    project = load_project(root)
    file, start = f"experiments/{name}.yaml", Path(root, "experiments", f"{like}.yaml")
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: a name has letters, digits and _, and begins with a letter")
    if (root / file).exists() or name in project.experiments or name in project.params.weights:
        raise ConfigError(f"{name}: {file}, or weights of this name, are there already; choose another name")
    if not start.is_file():
        known = sorted(path.stem for path in start.parent.glob("*.yaml"))
        raise ConfigError(f"--like {like}: there is no experiments/{like}.yaml{nearest(like, known)}")
    if dataset is not None and dataset not in project.params.datasets:
        known = list(project.params.datasets)
        raise ConfigError(f"--dataset {dataset}: {PARAMS} has no data set of this name{nearest(dataset, known)}")
    texts, old = _drafts(root, name, like, dataset)
    write(root, texts)
    show(f"written: {file}, a copy of experiments/{like}.yaml; {PARAMS} lists it")
    if dataset is not None and old is not None and old != dataset:
        show(f"data.dataset: {dataset}, which was {old}")
        for path, line in mentions(texts[file], old):
            show(f"line {line}: {path} still names {old}")
    show(f"next: edit {file}, then `snakemake models/{name}/manifest.json` trains it; `make all` also scores it")


def experiment_like(root: Path, task: str, dataset: str) -> str | None:
    """The first experiment in experiments/ of this task that could be copied for this data set; None without one."""
    for path in sorted((root / "experiments").glob("*.yaml")):
        try:
            if read_yaml(path).get("task") == task and dataset_of(read_source(path)) is not None:
                _drafts(root, "EXPERIMENT", path.stem, dataset)
                return path.stem
        except ConfigError:
            continue
    return None


def _drafts(root: Path, name: str, like: str, dataset: str | None) -> tuple[dict[str, str], str | None]:
    """The texts of a copy and of params.yaml, checked, and the data set of the original."""
    file, text = f"experiments/{name}.yaml", read_source(root / f"experiments/{like}.yaml")
    old = dataset_of(text)
    if dataset is not None:
        if old is None:
            raise ConfigError(
                f"--dataset {dataset}: {like} trains on several data sets (data.train); leave --dataset out"
            )
        text = _replaced(text, "data.dataset", dataset)
    content = read_yaml(root / PARAMS)
    texts = {file: text, PARAMS: with_item(read_source(root / PARAMS), "experiments", name)}
    check(root, texts, {**content, "experiments": [*(content.get("experiments") or []), name]})
    return texts, old


def dataset_of(text: str) -> str | None:
    """The data set that an experiment trains on; None for a mixture."""
    return next((node.value for path, node in _values(text) if path == "data.dataset"), None)


def mentions(text: str, name: str) -> list[tuple[str, int]]:
    """The key paths and line numbers of a YAML text that have this name as a value or as a key."""
    found = []
    for path, node in scalars(text):
        if node.value == name:
            found.append((path, node.start_mark.line + 1))
    return found


def _values(text: str) -> list[tuple[str, yaml.ScalarNode]]:
    """The values by key path; a key itself comes before its value."""
    return list({path: (path, node) for path, node in scalars(text)}.values())


def _replaced(text: str, path: str, value: str) -> str:
    node = next(node for at, node in _values(text) if at == path)
    return text[: node.start_mark.index] + value + text[node.end_mark.index :]
