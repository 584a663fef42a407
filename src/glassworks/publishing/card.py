"""README.md: the model card, for a reader of the hub who has never seen the project."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import ModelCard, ModelCardData

from glassworks.artifacts.digests import sha256_file, write_text
from glassworks.artifacts.manifest import MANIFEST
from glassworks.config.datasets import SPLITS
from glassworks.evaluation.labels import Gallery, Texts
from glassworks.publishing.kinds import Kind, kind_of
from glassworks.publishing.lineage import Made
from glassworks.publishing.model_files import Layout
from glassworks.publishing.scores import dataset_of, metadata, shown, title_of, training_datasets
from glassworks.publishing.subject import EXAMPLES, Subject
from glassworks.report.attribution import attribution, weights_attribution
from glassworks.report.page import Scored, Section
from glassworks.report.reading import Run, Scores
from glassworks.report.wording import magnitude

CARD = "README.md"
TEMPLATES = Path(__file__).with_name("templates")
UNKNOWN = "Yours to state"
"""How the licence of data begins that only the publisher can know."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation as the card shows it."""

    scores: Scores
    dataset: str
    split: str
    verdict: str | None
    headings: list[str]
    """Of the columns of the table."""
    terms: dict[str, str]
    """Explanations of the columns."""
    tiles: list[tuple[str, str, str]]
    """Title, value and explanation of each score that is not in the table."""
    examples: str


def write_card(subject: Subject, run: Run, layout: Layout, target: Path) -> None:
    """Write README.md. The files of the model are there already."""
    kind = kind_of(layout.kind)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown: table cells are escaped by `cell`, texts of models stand in fences
    )
    environment.filters.update(cell=_cell, number=lambda value: f"{value:,}", shown=shown)
    body = environment.get_template("card.md.j2").render(
        subject=subject,
        first=_first(subject, kind),
        facts=_facts(subject, run, layout),
        use=_use(subject, kind, layout),
        scored=[_evaluated(subject, scores) for scores in run.evaluations],
        data=_data(subject, run),
        weights=[(name, weights_attribution(made.params)) for name, made in subject.made("weights").items()],
        limits=_limits(subject, run, layout),
        training=_training(subject, run),
        settings=fenced(yaml.safe_dump(_settings(subject), sort_keys=True, allow_unicode=True, width=100), "yaml"),
        digests=[
            *((path.name, sha256_file(path)) for path in sorted(target.glob("*.safetensors"))),
            ("manifest of the trained model (training/manifest.json)", subject.model.digest),
        ],
    )
    card = ModelCard(
        f"---\n{_metadata(subject, run, kind, layout).to_yaml()}\n---\n\n{body}", ignore_metadata_errors=False
    )
    write_text(target / CARD, str(card))


def _metadata(subject: Subject, run: Run, kind: Kind, layout: Layout) -> ModelCardData:
    licence = subject.facts.licence
    hub = [made.params for made in subject.made("weights").values() if made.params.get("source") == "hub"]
    return ModelCardData(
        model_name=subject.name,
        license=licence.lower() if licence else "other",
        license_name=None if licence else "not-stated",
        license_link=None if licence else CARD,
        library_name="transformers" if layout.architecture else "glassworks",
        pipeline_tag=kind.pipeline,
        tags=list(dict.fromkeys(["glassworks", "reproducible", subject.task])),
        base_model=[str(params["repository"]) for params in hub] or None,
        eval_results=metadata(subject, run, kind.pipeline or subject.task) or None,
    )


def _first(subject: Subject, kind: Kind) -> str:
    """What the model is, in one or two sentences."""
    titles = "; ".join(attribution(made.params).title for made in _trained_on(subject).values())
    weights = "; ".join(weights_attribution(made.params).title for made in _weights(subject).values())
    title = kind.title[0].upper() + kind.title[1:]
    adapter = (subject.model.params.get("model") or {}).get("adapter") or {}
    if adapter.get("kind") and weights:
        sentence = f"{title}: {weights}, tuned with an adapter (`{adapter['kind']}`)"
        weights = ""
    else:
        sentence = f"{title}, trained"
    sentence += f" on this data: {titles}." if titles else "."
    if weights:
        sentence += f" It uses published weights: {weights}."
    if begun := _begun_with(subject):
        sentence += f" It began with models of the same project: {', '.join(begun)}."
    return sentence + " It was made with glassworks and can be rebuilt byte for byte."


def _weights(subject: Subject) -> dict[str, Made]:
    """The published weights on which the training depends."""
    return {name: made for name, made in subject.made("weights").items() if made.stage in subject.trained_from}


def _begun_with(subject: Subject) -> dict[str, Made]:
    """The models of the project on which the training depends, by experiment."""
    return {name: made for name, made in subject.made("train").items() if made.stage in subject.trained_from}


def _trained_on(subject: Subject) -> dict[str, Made]:
    records = subject.made("records")
    return {name: records[name] for name in training_datasets(subject.model.params) if name in records}


def _facts(subject: Subject, run: Run, layout: Layout) -> list[str]:
    if layout.facts:
        return [f"Class in transformers: `{layout.architecture}`.", *(_sentence(fact) for fact in layout.facts)]
    count = Section(run).parameters
    found = [f"{count:,} ({magnitude(count)}) parameters."] if count else []
    if layout.reason:
        found.append(f"Not in the layout of transformers: {layout.reason}.")
    return found


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _use(subject: Subject, kind: Kind, layout: Layout) -> str:
    download = f"```bash\nhf download REPOSITORY --local-dir {subject.name}\n"
    named = "REPOSITORY is the name of this model on the hub."
    if layout.architecture:
        return f"{download}cd {subject.name}\n```\n\n{named}\n\n{layout.use.strip()}"
    if kind.command is None:
        return f"{download}```\n\n{named} The project's code opens the folder (task `{subject.task}`)."
    command = kind.command.format(folder=f"models/{subject.name}" if layout.towers else subject.name)
    if layout.towers:
        download = download.replace("--local-dir ", "--local-dir models/")
    return f"transformers does not have this architecture; glassworks runs it.\n\n{download}{command}\n```\n\n{named}"


def _evaluated(subject: Subject, scores: Scores) -> Evaluated:
    split = scores.metrics.get("split") or scores.settings.get("split") or "held-out"
    table = scores.labels.table
    columns = table.columns if table else []
    same = len({column.title for column in columns}) < len(columns)
    headings = [title_of(column) if same else column.title for column in columns]
    shown_there = {cell for row in (table.rows if table else []) for cell in row.cells.values()}
    return Evaluated(
        scores,
        dataset_of(subject, scores),
        str(split),
        Scored(scores).verdict if table else None,
        [
            f"{head}, lower is better" if column.lower_is_better else head
            for head, column in zip(headings, columns, strict=True)
        ],
        {column.title: column.explanation for column in columns if column.explanation},
        [
            (tile.title, shown(scores.value(tile.value), tile), tile.explanation)
            for tile in scores.labels.tiles
            if tile.value not in shown_there
        ],
        _examples(scores),
    )


def _examples(scores: Scores) -> str:
    """Some items as fenced text; empty if the evaluation keeps no texts."""
    if isinstance(scores.labels.items, Texts):
        return "\n\n".join(f"{text.label}:\n\n{fenced(text.prompt + text.text)}" for text in scores.texts[:EXAMPLES])
    if isinstance(scores.labels.items, Gallery):
        return "\n\n".join(_item(scores, number) for number in range(len(scores.pictures)))
    return ""


def _item(scores: Scores, number: int) -> str:
    picture, labels = scores.pictures[number], scores.labels.items
    assert isinstance(labels, Gallery)
    titles = dict(labels.answers)
    lines = [f"question: {picture.question}"] if picture.question else [f"sample: {picture.key}"]
    lines += [f"true: {text}" for text in picture.truth[:1]]
    lines += [f"{' and '.join(titles[name] for name in names)}: {text}" for text, names in picture.distinct.items()]
    return fenced("\n".join(lines))


def _settings(subject: Subject) -> dict[str, Any]:
    """The sections of the experiment that training read."""
    sections = ("task", "data", "model", "optimization", "training", "seed")
    return {name: subject.model.params[name] for name in sections if name in subject.model.params}


def fenced(text: str, language: str = "text") -> str:
    """Text as a fenced block that no run of backticks in it can close."""
    longest = max((len(run) for run in "".join(c if c == "`" else " " for c in text).split()), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _cell(text: str) -> str:
    """Text of one table cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _data(subject: Subject, run: Run) -> list[tuple[str, str, str, Any]]:
    """Name, use, samples and credit of each data set."""
    trained = _trained_on(subject)
    scored = {dataset_of(subject, scores) for scores in run.evaluations}
    rows = []
    for name, made in subject.made("records").items():
        used = [word for word, names in (("training", trained), ("scores", scored)) if name in names]
        begun = [other for other, model in _begun_with(subject).items() if name in training_datasets(model.params)]
        used += [f"training of {other}" for other in begun]
        if not used:
            used = ["source of the training data" if made.stage in subject.trained_from else "scores"]
        counts = made.manifest.counts["samples"]
        samples = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS if split in counts)
        rows.append((name, " and ".join(used), samples, attribution(made.params)))
    return rows


def _limits(subject: Subject, run: Run, layout: Layout) -> list[str]:
    trained = _trained_on(subject)
    found = []
    if trained:
        seen = sum(made.manifest.counts["samples"].get("train", 0) for made in trained.values())
        found.append(
            f"The training split of {', '.join(trained)} has {seen:,} samples. The scores say nothing about other data."
        )
    found += Section(run).cautions
    if layout.towers:
        names = ", ".join(layout.towers)
        made = " ".join(f"{made.directory}/{MANIFEST}" for made in _weights(subject).values())
        found.append(
            f"The folder does not hold its frozen encoders ({names}). Put it into `models/` of the project; `snakemake {made}` makes them there."
        )
    if _weights(subject):
        found.append("The limits and biases of the published weights remain.")
    unknown = [
        name for name, made in subject.made("records").items() if attribution(made.params).licence.startswith(UNKNOWN)
    ]
    if unknown:
        found.append(f"The licence of {', '.join(unknown)} is not known to glassworks; the publisher must state it.")
    found.append(
        "One training run was scored, so the intervals do not cover another seed. Its outputs were not examined for bias or harmful content."
    )
    return found


def _training(subject: Subject, run: Run) -> list[str]:
    params, section = subject.model.params, Section(run)
    training, optimization = params.get("training") or {}, params.get("optimization") or {}
    environment = subject.model.recipe.get("fingerprint") or {}
    steps = section.steps
    found = []
    if steps and training.get("batch_size"):
        precision = training.get("precision")
        found.append(
            f"{steps:,} steps of {training['batch_size']} samples" + (f", precision {precision}." if precision else ".")
        )
    if optimization.get("optimizer"):
        rate = optimization.get("learning_rate")
        found.append(f"{optimization['optimizer']}, learning rate {rate:g}, {optimization.get('schedule')} schedule.")
    if section.validation:
        found.append(section.validation)
    if environment:
        versions = environment.get("versions") or {}
        found.append(
            f"Device {environment.get('device')}, {environment.get('machine')}, instruction set {environment.get('cpu_isa')}, "
            f"Python {environment.get('python')}, torch {versions.get('torch')}."
        )
    if subject.facts.code:
        found.append(f"Code: commit {subject.facts.code}.")
    found.append(
        f"Ended {subject.facts.date}." if subject.facts.code else f"Date of this record: {subject.facts.date}."
    )
    return found
