"""Writes the published folder: complete under another name first, then renamed."""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from glassworks.artifacts.digests import disk_errors, flush_to_disk, sha256_file
from glassworks.artifacts.machine import unique_name
from glassworks.artifacts.publication import publish as rename
from glassworks.errors import ArtifactError, ConfigError
from glassworks.pipeline.table import Table
from glassworks.publishing.record import RECORD, Record, faults, read_record, write_record
from glassworks.publishing.subject import Facts, Subject, find_facts, read_subject
from glassworks.report.wording import size

PACKAGES = ("mlcroissant", "rocrate")
MODE = 0o644
"""Permissions of a published file."""


@dataclass(frozen=True)
class Published:
    """A published folder."""

    record: Record
    digest: str
    """sha256 of its record."""
    new: bool
    """Whether the folder was written; else it had this content already."""

    @property
    def contents(self) -> str:
        """How much it holds."""
        return f"{len(self.record.files)} files, {size(sum(entry.size for entry in self.record.files.values()))}"


def check_packages() -> None:
    """Raise `ConfigError` without the extra `publish`."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"glassworks publish needs {' and '.join(missing)}; install the extra: pip install 'glassworks[publish]'"
        )


def publish(table: Table, name: str, target: Path, licence: str | None = None, force: bool = False) -> Published:
    """Write the model of an experiment to the folder `target`, a pure function of its artefacts, its date and the licence.

    `force` replaces a published folder with other content. Raises `ConfigError` for an unknown experiment or without the extra, and `ArtifactError` for
    a model that is missing or altered, and for a target that holds something else.
    """
    check_packages()
    _check_target(target)
    facts = find_facts(table, name, licence)
    subject = read_subject(table, name, facts)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{unique_name()}.new")
    try:
        compose(subject, staged)
        record = read_record(staged)
        digest = sha256_file(staged / RECORD)
        if (target / RECORD).is_file():
            if _is_same(target, digest):
                return Published(record, digest, False)
            if not force:
                raise ArtifactError(
                    f"{target}: holds another publication, or an altered one; --force replaces it, or choose another folder"
                )
        with disk_errors(staged):
            for path in sorted(staged.rglob("*")):
                flush_to_disk(path)
            flush_to_disk(staged)
        if target.is_dir() and not (target / RECORD).is_file():
            target.rmdir()  # _check_target found it empty
        rename(staged, target, target.with_name(f".{target.name}.{unique_name()}.old"))
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Published(record, digest, True)


def again(table: Table, record: Record, target: Path) -> None:
    """Write a publication a second time, to the new folder `target`, with the facts of its record. Raises as `publish` does."""
    check_packages()
    try:
        facts = Facts(**record.facts)
    except TypeError:
        raise ArtifactError(f"{RECORD}: its facts are not those of this glassworks; use another version") from None
    compose(read_subject(table, record.experiment, facts), target)


def compose(subject: Subject, target: Path) -> None:
    """Write every file of a publication to the new folder `target`."""
    from glassworks.publishing.card import write_card
    from glassworks.publishing.citation import write_citation
    from glassworks.publishing.crate import write_crate
    from glassworks.publishing.croissant import write_data_cards
    from glassworks.publishing.model_files import write_model, write_training
    from glassworks.publishing.scores import write_eval_results

    with disk_errors(target):
        layout = write_model(subject, target)
        write_training(subject, target)
        run = subject.run()
        write_eval_results(subject, run, target)
        write_data_cards(subject, target)
        write_citation(subject, target)
        write_card(subject, run, layout, target)
        write_crate(subject, target)
        for path in target.rglob("*"):
            if path.is_file():
                path.chmod(MODE)
        write_record(target, subject.name, subject.model.stage, subject.model.digest, subject.facts.as_json())
        (target / RECORD).chmod(MODE)


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ArtifactError(f"{target}: a file; choose a new folder")
    if target.is_dir() and any(target.iterdir()) and not (target / RECORD).is_file():
        raise ArtifactError(f"{target}: holds files that `glassworks publish` did not write; choose a new folder")
    if target.resolve() == Path.cwd().resolve():
        raise ArtifactError(f"{target}: the current folder; choose a new folder")


def _is_same(target: Path, digest: str) -> bool:
    """Whether a folder has this record and every file of it."""
    return sha256_file(target / RECORD) == digest and not any(faults(target, read_record(target)))
