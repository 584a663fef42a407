"""The typer application and the options shared by several commands."""

from pathlib import Path
from typing import Annotated, Any

import typer


class Commands(typer.core.TyperGroup):
    """The commands. One whose function has `complete` gets the rest of its options when it is called, not for the list of commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        complete = getattr(getattr(command, "callback", None), "complete", None)
        if complete is None:
            return name, command, rest
        alone = typer.Typer(add_completion=False)
        alone.command(name)(complete())
        return name, typer.main.get_command(alone), rest


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="`glassworks VERB …`: one verb per stage, which Snakemake calls, and verbs for people.",
)

Threads = Annotated[int, typer.Option(min=1, help="Cores to use.")]
Log = Annotated[Path | None, typer.Option(help="Write a copy of what is shown to this file.")]

Host = Annotated[
    str,
    typer.Option(
        help="The address to listen on. Any but that of this machine alone needs a token, which is printed with the address."
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any free one.")]
Browse = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
