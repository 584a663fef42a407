"""`glassworks new …`: commands that write a data set or an experiment into the configuration."""

from pathlib import Path
from typing import Annotated

import typer

from glassworks.cli.app import Threads, app

new = typer.Typer(no_args_is_help=True, help="Add a data set or an experiment to the configuration.")
app.add_typer(new, name="new", rich_help_panel="Project")


@new.command()
def dataset(
    name: Annotated[str, typer.Argument(help="A name of your choice: letters, digits and _.")],
    folder: Annotated[
        Path, typer.Argument(help="Your folder, or one archive or file of conversations. It is never changed.")
    ],
    source: Annotated[str | None, typer.Option(help="The source that reads it, if several fit.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the source, such as captions=labels.csv; may be repeated."
        ),
    ] = None,
    max_dropped: Annotated[
        int, typer.Option(min=0, help="Samples that may be left out because they cannot be used.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the YAML only, and write nothing.")] = False,
    threads: Threads = 1,
) -> None:
    """Look at a folder, say what it holds, and add it to params.yaml.

    Every sample is read as the stage `records` reads it. If one cannot be used, nothing is written, and its file and row are named.

    Example: glassworks new dataset photos my-photos --dry-run
    """
    from glassworks.project.datasets import new_dataset

    new_dataset(Path.cwd(), name, folder, source, settings or [], max_dropped, dry_run, typer.echo, threads)


@new.command()
def experiment(
    name: Annotated[str, typer.Argument(help="A name of your choice: letters, digits and _.")],
    like: Annotated[
        str, typer.Option(metavar="EXPERIMENT", help="The experiment to copy: a file in experiments/, without .yaml.")
    ],
    dataset: Annotated[
        str | None, typer.Option(help="The data set of params.yaml to train on, in place of the copied one.")
    ] = None,
) -> None:
    """Copy an experiment with its comments, and list it in params.yaml.

    The whole project is checked first. Other places that name the old data set are said, and stay.

    Example: glassworks new experiment caption_photos --like caption_scenes --dataset photos
    """
    from glassworks.project.experiments import new_experiment

    new_experiment(Path.cwd(), name, like, dataset, typer.echo)
