"""One command for each kind of stage, called by Snakemake."""

from pathlib import Path
from typing import Annotated

import typer

from glassworks.cli.app import Log, Threads, app
from glassworks.cli.running import open_table, run_stage, set_instruction_set
from glassworks.console import copied_to, uninterrupted
from glassworks.errors import ConfigError

Subject = Annotated[str, typer.Argument(help="A dataset or an experiment, as params.yaml names it.")]


@app.command(rich_help_panel="Stages")
def fetch(dataset: Subject, threads: Threads = 1, log: Log = None) -> None:
    """Download the raw files of a dataset. An interrupted download resumes."""
    run_stage(f"fetch-{dataset}", threads, log)


@app.command(rich_help_panel="Stages")
def records(
    dataset: Subject,
    job: Annotated[
        int | None,
        typer.Option(min=0, help="Make only the records of this job, for a later call without --job to join."),
    ] = None,
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Convert the raw files of a dataset to a table of records: key, split, captions, labels."""
    run_stage(f"records-{dataset}", threads, log, job)


@app.command(rich_help_panel="Stages")
def shards(
    dataset: Subject,
    job: Annotated[
        int | None,
        typer.Option(min=0, help="Build only the shards of this job, for a later call without --job to collect."),
    ] = None,
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Write the records of a dataset and their media as WebDataset tars with sidecar files."""
    run_stage(f"shards-{dataset}", threads, log, job)


@app.command(rich_help_panel="Stages")
def weights(
    name: Annotated[str, typer.Argument(help="An entry under `weights` in params.yaml.")],
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Download published weights and convert them to the layout of the Hugging Face hub. An interrupted download resumes."""
    run_stage(f"weights-{name}", threads, log)


@app.command(rich_help_panel="Stages")
def features(
    encoder: Annotated[str, typer.Argument(help="An entry under `encoders` in params.yaml.")],
    dataset: Subject,
    job: Annotated[
        int | None,
        typer.Option(min=0, help="Compute only the shards of this job, for a later call without --job to collect."),
    ] = None,
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Compute the features of a dataset by a frozen encoder, once, for experiments to train on."""
    run_stage(f"features-{encoder}-{dataset}", threads, log, job)


@app.command(rich_help_panel="Stages")
def tokenizer(experiment: Subject, threads: Threads = 1, log: Log = None) -> None:
    """Train the tokenizer of an experiment on its training split."""
    run_stage(f"tokenizer-{experiment}", threads, log)


@app.command(rich_help_panel="Stages")
def pack(
    experiment: Subject,
    job: Annotated[
        int | None,
        typer.Option(min=0, help="Tokenize only the shards of this job, for a later call without --job to collect."),
    ] = None,
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Tokenize the texts and messages of an experiment and plan the rows that they are packed into."""
    run_stage(f"pack-{experiment}", threads, log, job)


@app.command(rich_help_panel="Stages")
def train(
    experiment: Subject,
    threads: Threads = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Training processes on each node, a power of two; as many as --threads allows by default."
        ),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Do not train: run a few steps in a scratch folder, say where their time goes and what would make them faster, and leave a trace in "
            "logs/profile/. Publishes nothing; can run beside the training itself.",
        ),
    ] = False,
    log: Log = None,
) -> None:
    """Train the model of an experiment. An interrupted run resumes from its last checkpoint.

    With reduction: exact, any number of workers gives the same bytes.
    """
    if not profile:
        run_stage(f"train-{experiment}", threads, log, workers=workers)
        return
    with copied_to(log):
        table = open_table()
        stage = table[f"train-{experiment}"]
        set_instruction_set(table.project.params.determinism.cpu_isa)
        with uninterrupted():
            from glassworks.diagnosis.profile import profile as profile_stage

        typer.echo(profile_stage(table, stage, threads, workers))


@app.command(rich_help_panel="Stages")
def evaluate(
    experiment: Subject,
    evaluation: Annotated[
        str | None,
        typer.Argument(help="One of the experiment's evaluations; may be left out where there is only one."),
    ] = None,
    threads: Threads = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that score; as many as --threads allows by default.")
    ] = None,
    log: Log = None,
) -> None:
    """Score a trained model and controls on a held-out split. Any number of workers gives the same bytes."""
    run_stage(f"evaluate-{experiment}-{evaluation or _only_evaluation(experiment)}", threads, log, workers=workers)


def _only_evaluation(experiment: str) -> str:
    """The name of an experiment's only evaluation. Raises `ConfigError` unless the experiment has exactly one."""
    from glassworks.config.base import nearest

    stages = [stage for stage in open_table() if stage.kind == "evaluate"]
    names = [stage.part for stage in stages if stage.subject == experiment]
    if not names:
        known = nearest(experiment, sorted({stage.subject for stage in stages}))
        raise ConfigError(f"no experiment with an evaluation is called {experiment!r}{known}")
    if len(names) > 1:
        raise ConfigError(f"{experiment} has several evaluations; name one: {', '.join(names)}")
    return names[0]


@app.command(rich_help_panel="Stages")
def report(threads: Threads = 1, log: Log = None) -> None:
    """Write results/report.html, a single file that can be opened offline."""
    from glassworks.report.view import write_view

    run_stage("report", threads, log)
    write_view(Path.cwd(), open_table())
