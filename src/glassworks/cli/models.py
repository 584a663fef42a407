"""Commands that use a trained model."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from glassworks.cli.app import Threads, app
from glassworks.console import uninterrupted
from glassworks.errors import ConfigError
from glassworks.generation.settings import Decoding

AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")]


def decodes(beams: int, max_new_tokens: int | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that adds the settings of `Decoding` to a command as options and passes them as `settings`.

    `--max-new-tokens` defaults to `max_new_tokens`. `--beams` defaults to `beams`, or to 1 with a temperature.
    """
    defaults = {"beams": None, "max_new_tokens": max_new_tokens}
    shown = {"beams": f"{beams}, or 1 with --temperature"} if beams > 1 else {}
    types = {**get_type_hints(Decoding), "beams": int | None}
    options = {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, field.default),
            annotation=Annotated[
                types[name],
                typer.Option(help=" ".join(field.description.split()), show_default=shown.get(name, True)),
            ],
        )
        for name, field in Decoding.model_fields.items()
    }

    def extend(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def extended(threads: int, **given: Any) -> None:
            chosen = {name: given.pop(name) for name in options}
            if chosen["beams"] is None:
                chosen["beams"] = 1 if chosen["temperature"] else beams
            os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
            with uninterrupted():
                import torch

                from glassworks.inference.model_folders import decoding

            torch.set_num_threads(threads)
            verb(settings=decoding(**chosen), **given)

        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [part.replace(kind=keyword) for part in inspect.signature(verb).parameters.values()]
        threads = inspect.Parameter("threads", keyword, default=1, annotation=Threads)
        parameters = [*(part for part in own if part.name != "settings"), *options.values(), threads]
        extended.__signature__ = inspect.Signature(parameters)
        extended.__annotations__ = {part.name: part.annotation for part in parameters}
        return extended

    return extend


@app.command(rich_help_panel="Models")
@decodes(beams=1, max_new_tokens=100)
def generate(
    model: Annotated[
        Path,
        typer.Argument(
            help="A folder with a language model: models/NAME, or published weights in transformers' layout (data/weights/NAME)."
        ),
    ],
    settings: Decoding,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="What the texts begin with; an empty one, or none, begins from BOS, where the tokenizer names one."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Read more prompts from this file, one a line; - is standard input.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Texts for each prompt (with --temperature).")] = 1,
    as_json: AsJson = False,
) -> None:
    """Continue prompts with a language model. A single text is printed while it is generated.

    Example: glassworks generate models/lm_kjv "In the beginning" --temperature 0.8 --top-p 0.9
    """
    from glassworks.inference.generate import read_prompts, run

    if samples > 1 and not settings.temperature:
        raise ConfigError(
            "--samples: without --temperature nothing is drawn, and all texts of a prompt would be the same"
        )
    run(model, read_prompts(prompts or [], file, sys.stdin.read), settings, samples, as_json, _show, Path.cwd())


@app.command(rich_help_panel="Models")
@decodes(beams=3)
def caption(
    model: Annotated[Path, typer.Argument(help="A folder with a captioner, such as models/caption_scenes.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    settings: Decoding,
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write a PNG for each image into this folder: where the model looked for every word."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a caption for each image: by beam search, as in evaluation, or by sampling with --temperature.

    Example: glassworks caption models/caption_scenes scene.png --attention maps
    """
    from glassworks.inference.caption import run

    run(model, images, settings, attention, as_json, _show, Path.cwd())


@app.command(rich_help_panel="Models")
@decodes(beams=1, max_new_tokens=200)
def ask(
    model: Annotated[Path, typer.Argument(help="A folder with a vision-language model, such as models/vlm_scenes.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    question: Annotated[str, typer.Argument(help="The question about each image.")],
    settings: Decoding,
    draw: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw the points of the answer on the image, into this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question about images. The answer for a single image is printed while it is generated.

    Example: glassworks ask models/vlm_scenes scene.png "where is the lobster?" --draw points.png
    """
    from glassworks.inference.ask import run

    run(model, images, question, settings, draw, as_json, _show, Path.cwd())


@app.command(rich_help_panel="Models")
def export(
    model: Annotated[Path, typer.Argument(help="A folder with a language model that was trained here: models/NAME.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
) -> None:
    """Export a language model and its tokenizer to the layout of transformers (GPT-2, Llama or Qwen2, depending on its settings)."""
    from glassworks.inference.export import run

    typer.echo(f"{folder}: {run(model, folder, Path.cwd())}")


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
