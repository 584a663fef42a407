"""Verbs that use a trained model."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.app import Threads, app
from glassworks.console import uninterrupted
from glassworks.errors import ConfigError

if TYPE_CHECKING:
    from glassworks.generation.settings import Decoding

AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")]


def decodes(beams: int, max_new_tokens: int | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of decoding, with these defaults, and call it with the settings they make as `settings`."""
    sampled = "(with --temperature)"
    options = {
        "temperature": (
            float,
            0.0,
            "0 takes the likeliest token each time; larger values draw at random, bolder as they grow. 0.7 is careful, 1 is as the model was trained.",
        ),
        "top_k": (int | None, None, f"Draw only among so many likeliest tokens {sampled}."),
        "top_p": (
            float,
            1.0,
            f"Draw only among the likeliest tokens that together have this probability {sampled}; 0.9 cuts the unlikely tail.",
        ),
        "min_p": (
            float,
            0.0,
            f"Draw only tokens that have this share of the likeliest one's probability {sampled}; 0.05 suits high temperatures.",
        ),
        "repetition_penalty": (
            float,
            1.0,
            "Above 1 makes tokens that were there before less likely; 1.1 to 1.3 stops a small model from going in circles.",
        ),
        "beams": (
            int | None,
            None,
            "Search for the likeliest text among so many at a time; 1 is no search"
            + (f", {beams} the default without --temperature." if beams > 1 else "."),
        ),
        "length_penalty": (
            float,
            0.7,
            "With --beams: 0 favours short texts, 1 compares by the mean of a token, more favours long ones.",
        ),
        "min_new_tokens": (int, 0, "Let no text end before so many new tokens."),
        "max_new_tokens": (
            int | None,
            max_new_tokens,
            "Tokens of a text at most; it may end earlier, and ends with the model's context.",
        ),
        "seed": (
            int,
            0,
            "Seed of the draws: the same seed gives the same text, whatever else is asked in the same call.",
        ),
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
        added = [
            inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, typer.Option(help=text)])
            for name, (kind, default, text) in options.items()
        ]
        added.append(inspect.Parameter("threads", keyword, default=1, annotation=Threads))
        parameters = [part for part in own if part.name != "settings"] + added
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
    settings: "Decoding",
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
    """Continue prompts with a language model. A single text appears while it is written.

    Example: glassworks generate models/lm_kjv "In the beginning" --temperature 0.8 --top-p 0.9
    """
    from glassworks.inference.text import read_prompts, run

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
    settings: "Decoding",
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write a PNG for each image into this folder: where the model looked for every word."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in images, by beam search as in evaluation, or with --temperature by random draws.

    Example: glassworks caption models/caption_scenes scene.png --attention maps
    """
    from glassworks.inference.captions import run

    run(model, images, settings, attention, as_json, _show, Path.cwd())


@app.command(rich_help_panel="Models")
def export(
    model: Annotated[Path, typer.Argument(help="A folder with a language model that was trained here: models/NAME.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
) -> None:
    """Write a language model as transformers has it (GPT-2, Llama or Qwen2, by its settings), with its tokenizer."""
    from glassworks.inference.export import run

    typer.echo(f"{folder}: {run(model, folder, Path.cwd())}")


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
