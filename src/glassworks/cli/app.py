"""The typer application and the options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="`glassworks VERB …`: one verb per stage, which Snakemake calls, and verbs for people.",
)

Threads = Annotated[int, typer.Option(min=1, help="Cores to use.")]
Log = Annotated[Path | None, typer.Option(help="Write a copy of what is shown to this file.")]
