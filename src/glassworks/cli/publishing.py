"""The command that publishes a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from glassworks.cli.app import app
from glassworks.cli.running import open_table, set_instruction_set


@app.command(rich_help_panel="Models")
def publish(
    experiment: Annotated[str, typer.Argument(help="A trained experiment; `glassworks ls` lists them.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="SPDX",
            help="The licence under which you publish the weights, such as Apache-2.0. Without it, the card says that none is stated.",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="REPOSITORY",
            help="Then upload the folder to OWNER/NAME on the Hugging Face hub, with your own login.",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push, a new repository is private.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a published folder that has other content.")] = False,
) -> None:
    """Write a trained model for others: weights, tokenizer, model card, scores, data cards, origin, citation, and the digest of every file.

    The model, its scores and its data must be made. The same artefacts give the same bytes. `glassworks verify FOLDER` checks a folder anywhere.
    Needs the extra `publish`.

    Example: glassworks publish lm_kjv lm_kjv-published
    """
    table = open_table()
    set_instruction_set(table.project.params.determinism.cpu_isa)  # the merge of an adapter computes
    from glassworks.publishing import folder as publishing

    done = publishing.publish(table, experiment, folder, licence, force)
    word = "published" if done.new else "already published with these bytes"
    typer.echo(f"{folder}: {experiment} {word}, {done.contents}; sha256 of glassworks.json: {done.digest}")
    if push is not None:
        from glassworks.publishing.hub import push as upload

        typer.echo(upload(folder, push, private))
