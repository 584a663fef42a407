"""`glassworks new dataset`: look at a folder, say what it holds, and write its entry in params.yaml.

The stages' own code reads every sample, so the counts and the faults are those of the stage `records`. Nothing is written for a folder with faults.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from PIL import Image

from glassworks.config import registry
from glassworks.config.base import nearest, parse, read_yaml
from glassworks.config.datasets import SPLITS, Dataset, LocalDataset
from glassworks.config.params import Params
from glassworks.config.project import PARAMS, Project, load_project
from glassworks.data.captioned_images import IMAGE_SUFFIXES
from glassworks.data.drops import remark_line
from glassworks.data.fetching.raw_files import open_inventory, raw_files_folder, take_stock
from glassworks.data.messages import texts_of
from glassworks.data.records import Record
from glassworks.errors import ConfigError, DataError
from glassworks.pipeline.data_stages import dataset_stages
from glassworks.pipeline.execution import Context
from glassworks.pipeline.stage import Stage
from glassworks.project.experiments import experiment_like
from glassworks.project.recognition import SOUNDS, Fit, census, of_kind, recognise, tars_by_split
from glassworks.project.yaml_edits import NAME, check, read_source, with_entry, write
from glassworks.report.wording import size
from glassworks.sources.protocol import load_source
from glassworks.stages.records import Tally

SHOWN = 10
"""Problems that are printed."""
SMALL = 1000
"""Images or sounds below which larger shares are held out."""


@dataclass
class Survey:
    """What the files of a data set hold."""

    tally: Tally
    files: int = 0
    bytes: int = 0
    census: str = ""
    sides: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of the images, as their headers say."""
    seconds: list[float] = field(default_factory=list)
    """Lengths of the sounds and clips."""
    words: list[int] = field(default_factory=list)
    """Words of each sample."""

    def lines(self) -> list[str]:
        """The findings in lines."""
        counts, drops = self.tally.samples, self.tally.drops
        by_split = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS)
        found = [
            f"files     {self.files:,}, {size(self.bytes)}: {self.census}",
            f"samples   {counts.total():,} ({by_split})",
        ]
        if self.sides:
            least, most = min(self.sides, key=_area), max(self.sides, key=_area)
            same = "all " if least == most else f"from {least[0]}×{least[1]} to "
            found.append(f"images    {same}{most[0]}×{most[1]} pixels")
        if self.seconds:
            found.append(f"seconds   median {median(self.seconds):.1f}, longest {max(self.seconds):.1f}")
        if self.words:
            kinds = [f"{self.tally.captions:,} texts"] if self.tally.captions else []
            kinds += [f"{self.tally.messages:,} messages"] if self.tally.messages else []
            lengths = f"{median(self.words):,.0f} words a sample (median), longest {max(self.words):,}"
            found.append(f"texts     {', '.join(kinds)}; {lengths}")
        found += [f"note      {remark_line(remark)}" for remark in drops.remarks.values()]
        found += [f"problem   {item.where}: {item.reason}" for item in drops.dropped[:SHOWN]]
        if more := len(drops.dropped) - SHOWN:
            found += [f"problem   … and {more:,} more"] if more > 0 else []
        return found


def new_dataset(
    root: Path,
    name: str,
    given: Path,
    source: str | None,
    settings: list[str],
    max_dropped: int,
    dry_run: bool,
    show: Callable[[str], None],
    threads: int = 1,
) -> None:
    """Add a data set to params.yaml and pass what was found to `show`; with `dry_run`, pass the entry alone.

    Raises `ConfigError` for a name that is taken, content that no source reads, and settings with a fault; `DataError` for samples that cannot be used.
    """
    project = load_project(root)
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: a name has letters, digits and _, and begins with a letter")
    if name in project.params.datasets:
        raise ConfigError(f"{PARAMS}: datasets.{name} is there already; choose another name")
    if source is not None and source not in (local := _local_sources()):
        raise ConfigError(f"--source {source}: no source for your own files is called so{nearest(source, local)}")
    chosen = _parsed(settings)
    _extended(root, name, [f"{name}:", "  source: folder", f"  path: {_scalar(str(given))}"])  # the name and the place
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "raw")
        raw.mkdir()
        folder, names = _take_stock(root, name, given, raw)
        if source is None:
            fit = recognise(folder, names, given)
        else:
            tars = {"tars": tars_by_split(of_kind(names, (".tar",)))} if source == "webdataset" else {}
            fit = Fit(source, census(names), tars)
        entry = {"source": fit.source, "path": str(given), **fit.settings, **_shares(fit, names), **chosen}
        entry |= {"max_dropped": max_dropped} if max_dropped else {}
        texts = _extended(root, name, _entry(name, entry, fit))
        survey = _survey(root, name, entry, project.params.seed, raw, Path(scratch, "work"), threads)
    if dry_run:
        show("\n".join(f"  {line}" for line in _entry(name, entry, fit)))
    else:
        show(f"{given}: {fit.words} (source: {fit.source})")
        for line in survey.lines():
            show(f"  {line}")
    _check_usable(given, survey, max_dropped)
    if not dry_run:
        write(root, texts)
        show(f"written: {PARAMS}, datasets.{name}")
        show(
            f"next: snakemake data/shards/{name}/manifest.json, then `glassworks preview {name}`{_like(project, name, fit)}"
        )


def _take_stock(root: Path, name: str, given: Path, raw: Path) -> tuple[Path, list[str]]:
    """The folder with the files and their names, as the stage `fetch` finds them."""
    stage = Stage("fetch", name, f"data/raw/{name}", (), {}, {}, local_path=str(given))
    context = Context(root, stage, {"raw": raw}, raw, raw)
    try:
        take_stock(
            context, "a folder, an archive, or one file of conversations", (".jsonl", ".ndjson", ".json", ".parquet")
        )
    except DataError as error:
        raise DataError(str(error).removeprefix(f"{PARAMS}: datasets.{name}.path: ")) from None
    return raw_files_folder(raw, root / given), list(open_inventory(context))


def _survey(root: Path, name: str, entry: dict[str, Any], seed: int, raw: Path, work: Path, threads: int) -> Survey:
    """What the source makes of the files."""
    params = parse(Params, {"seed": seed, "datasets": {name: entry}, "experiments": []}, PARAMS)
    stage = next(stage for stage in dataset_stages(Project(root, params, {}), name) if stage.kind == "records")
    work.mkdir()
    context = Context(root, stage, {"raw": raw}, work, work, threads)
    inventory, folder = open_inventory(context), raw_files_folder(raw, context.local_path)
    survey = Survey(Tally(name), len(inventory), sum(file.size for file in inventory.values()), census(list(inventory)))
    for record in survey.tally.kept(load_source(entry["source"]).records(context)):
        _measure(survey, record, folder)
    survey.tally.finish()
    return survey


def _measure(survey: Survey, record: Record, folder: Path) -> None:
    """Add the sizes of a sample."""
    texts = [*record.texts, *texts_of(record.messages)]
    survey.words.append(sum(len(text.split()) for text in texts))
    file = record.media.get("file", "")
    if of_kind([file], IMAGE_SUFFIXES):
        with Image.open(folder / file) as image:
            survey.sides.append(image.size)
    survey.seconds += [medium.seconds for medium in record.sizes.values() if medium.seconds]


def _check_usable(given: Path, survey: Survey, max_dropped: int) -> None:
    dropped, samples = survey.tally.drops.count, survey.tally.samples
    if dropped > max_dropped:
        kept = f"{samples.total():,} can be used"
        raise DataError(
            f"{given}: {dropped:,} of the samples cannot be used, {kept}; repair them, or leave them out with --max-dropped {dropped}: "
            f"{survey.tally.drops.first()}"
        )
    if not samples["train"]:
        raise DataError(f"{given}: no sample is left for training")


def _shares(fit: Fit, names: list[str]) -> dict[str, Any]:
    """Larger held-out shares for a small set of images or sounds, whose scores would say little."""
    files = of_kind(names, IMAGE_SUFFIXES) if fit.source in ("folder", "llava") else of_kind(names, SOUNDS)
    small = fit.source in ("folder", "llava", "audio_folder") and len(files) < SMALL
    return {"splits": {"validation": 0.1, "test": 0.2}} if small else {}


COMMENTS = {
    "splits": "held-out shares by a hash; splits that the table names come first",
    "max_dropped": "samples that cannot be used and are left out",
    "tars": "one glob for each split",
}


def _entry(name: str, entry: dict[str, Any], fit: Fit) -> list[str]:
    """The lines of the entry in params.yaml."""
    lines = [f"{name}: # {' '.join(fit.words.split())}"]
    for key, value in entry.items():
        comment = f" # {COMMENTS[key]}" if key in COMMENTS else ""
        lines.append(f"  {key}: {_scalar(value)}{comment}")
    return lines


def _scalar(value: Any) -> str:
    """A value in one line of YAML, with spaces inside braces as in params.yaml."""
    flow = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20)
    text = flow.strip()[1:-1]
    return f"{{ {text[1:-1]} }}" if isinstance(value, dict) and value else text


def _extended(root: Path, name: str, lines: list[str]) -> dict[str, str]:
    """The text of params.yaml with the entry, after a check of the whole project."""
    content = read_yaml(root / PARAMS)
    added = yaml.safe_load("\n".join(lines))
    expected = {**content, "datasets": {**(content.get("datasets") or {}), **added}}
    texts = {PARAMS: with_entry(read_source(root / PARAMS), "datasets", lines)}
    check(root, texts, expected)
    return texts


def _parsed(settings: list[str]) -> dict[str, Any]:
    """Settings of the command line: KEY=VALUE, where the value is YAML."""
    found = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            sign = ""
        if not (key and sign):
            raise ConfigError(f"--set {setting}: expected KEY=VALUE, such as captions=labels.csv")
    return found


def _local_sources() -> list[str]:
    """The sources that read the user's files and download nothing."""
    classes = {name: registry.settings_class("sources", name, Dataset) for name in registry.names("sources")}
    return [name for name, one in classes.items() if issubclass(one, LocalDataset) and not one.fetch_modules]


TASKS = {
    "folder": "captioning",
    "texts": "language_modelling",
    "messages": "instruction",
    "llava": "vision_language",
    "video": "vision_language",
}


def _like(project: Project, name: str, fit: Fit) -> str:
    """The command for an experiment on the data set, if there is one for such data to start from: listed in params.yaml, or in experiments/ alone."""
    task = TASKS.get(fit.source, "")
    listed = (other for other in project.contents if project.experiments[other].task == task)
    other = next(listed, None) or experiment_like(project.root, task, name)
    return f"\nthen: glassworks new experiment EXPERIMENT --like {other} --dataset {name}" if other else ""


def _area(sides: tuple[int, int]) -> int:
    return sides[0] * sides[1]
