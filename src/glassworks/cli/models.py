"""Commands that use a trained model."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from glassworks.cli.app import Browse, Host, Port, Threads, app
from glassworks.console import uninterrupted
from glassworks.errors import ConfigError

if TYPE_CHECKING:
    from glassworks.generation.settings import Decoding
    from glassworks.inference.chat import Dialogue

Base = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The folder of the base of an adapter: needed for one that peft wrote; models/NAME names its own.",
    ),
]
Merge = Annotated[
    bool,
    typer.Option(
        "--merge", help="Merge the adapter into its base first: faster, and rounded differently from training."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")]


def decodes(beams: int, max_new_tokens: int | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that adds the settings of `Decoding` to a command as options and passes them as `settings`.

    `--max-new-tokens` defaults to `max_new_tokens`. `--beams` defaults to `beams`, or to 1 with a temperature.
    The options are added when the command is called (`Commands`), for they import pydantic.
    """

    def extend(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def listed() -> None:
            raise AssertionError(f"{verb.__name__} was called without its options")

        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [part.replace(kind=keyword) for part in inspect.signature(verb).parameters.values()]
        own = [part for part in own if part.name != "settings"]
        _take(listed, own)
        listed.complete = functools.partial(_with_options, verb, own, beams, max_new_tokens)  # type: ignore[attr-defined]
        return listed

    return extend


def _take(verb: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Give a function the signature from which typer makes the options of its command."""
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {part.name: part.annotation for part in parameters}


def _with_options(
    verb: Callable[..., None], own: list[inspect.Parameter], beams: int, max_new_tokens: int | None
) -> Callable[..., None]:
    """A command with its `own` parameters and the settings of `Decoding`."""
    from glassworks.generation.settings import Decoding

    defaults = {"beams": None, "max_new_tokens": max_new_tokens}
    shown = {"beams": f"{beams}, or 1 with --temperature"} if beams > 1 else {}
    types = {**get_type_hints(Decoding), "beams": int | None}
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = {
        name: inspect.Parameter(
            name,
            keyword,
            default=defaults.get(name, field.default),
            annotation=Annotated[
                types[name],
                typer.Option(help=" ".join(field.description.split()), show_default=shown.get(name, True)),
            ],
        )
        for name, field in Decoding.model_fields.items()
    }

    @functools.wraps(verb)
    def extended(context: typer.Context, threads: int, **given: Any) -> None:
        chosen = {name: given.pop(name) for name in options}
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        with uninterrupted():
            import torch

            from glassworks.inference.model_folders import decoding, published_decoding

        explicit = {name: value for name, value in chosen.items() if _is_written(context, name)}
        published, line = published_decoding(given["model"], explicit)
        if line:
            print(f"note: {line}", file=sys.stderr)
        chosen |= published
        if chosen["beams"] is None:
            chosen["beams"] = 1 if chosen["temperature"] else beams
        torch.set_num_threads(threads)
        verb(settings=decoding(**chosen), **given)

    threads = inspect.Parameter("threads", keyword, default=1, annotation=Threads)
    context = inspect.Parameter("context", keyword, annotation=typer.Context)
    _take(extended, [context, *own, *options.values(), threads])
    return extended


def _is_written(context: typer.Context, name: str) -> bool:
    """Whether the user wrote an option, which then comes before a published default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command(rich_help_panel="Models")
@decodes(beams=1, max_new_tokens=100)
def generate(
    model: Annotated[
        Path,
        typer.Argument(
            help="A folder with a language model: models/NAME, an adapter, or published weights in transformers' layout (data/weights/NAME)."
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
    base: Base = None,
    merge: Merge = False,
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
    given = read_prompts(prompts or [], file, sys.stdin.read)
    run(model, given, settings, samples, as_json, _show, Path.cwd(), base, merge)


@app.command(rich_help_panel="Models")
@decodes(beams=1, max_new_tokens=512)
def chat(
    model: Annotated[
        Path,
        typer.Argument(
            help="A folder with a language model that has a chat template: models/NAME, an adapter, or published weights (data/weights/NAME)."
        ),
    ],
    settings: "Decoding",
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The system message, before the first turn.")
    ] = None,
    message: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Answer this message and end; several are the turns of one conversation."),
    ] = None,
    base: Base = None,
    merge: Merge = False,
    as_json: AsJson = False,
) -> None:
    """Talk with a language model. Answers are printed while they are generated.

    In a terminal, /reset begins a new conversation and /exit ends it. Ctrl-C ends an answer; a second one ends the conversation.
    Elsewhere, every line of standard input is a turn.

    Example: glassworks chat models/sft_smollm2 --message "Name three birds." --temperature 0.7
    """
    from glassworks.inference.chat import Conversation

    _converse(Conversation(model, settings, system, Path.cwd(), base, merge), message, as_json)


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
    """Write a caption for each image: by beam search, as in evaluation, or by sampling with --temperature.

    Example: glassworks caption models/caption_scenes scene.png --attention maps
    """
    from glassworks.inference.caption import run

    run(model, images, settings, attention, as_json, _show, Path.cwd())


@app.command(rich_help_panel="Models")
@decodes(beams=1, max_new_tokens=200)
def ask(
    model: Annotated[Path, typer.Argument(help="A folder with a vision-language model, such as models/vlm_long.")],
    settings: "Decoding",
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE… QUESTION", help="Image files, or folders of them, and the question about each of them."
        ),
    ] = None,
    talk: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Talk about an image, or about several together, without QUESTION. Each turn follows the earlier ones. A model trained on conversations has learned this; "
            "one trained on message trees has seen every question alone, and may confuse turns.",
        ),
    ] = False,
    message: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="With --chat, answer this message and end; several are the turns of one conversation."
        ),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw the points of the answer on the image, into this file.")
    ] = None,
    together: Annotated[
        bool,
        typer.Option(
            "--together", help="Ask one question about all files together, in their order, and not about each."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a question about images or clips. A single answer is printed while it is generated.

    Each file is asked about alone, without --together. A model that was trained on samples with one image has not learned to compare several.
    A clip is an animated WebP or GIF. --chat is a conversation about the files together, as `glassworks chat` is.

    Example: glassworks ask models/vlm_long scene.png "point at the lobster." --draw points.png
    """
    given = images or []
    if talk and draw is not None:
        raise ConfigError("--draw: draws the points of one answer; leave out --chat")
    if message and not talk:
        raise ConfigError("--message: is a turn of a conversation; add --chat, or give the question after the images")
    if len(given) < 2 - talk:
        raise ConfigError(f"{model}: give an image{'' if talk else ' and a question about it'}")
    from glassworks.inference.ask import ImageConversation, run

    if talk:
        _converse(ImageConversation(model, [Path(name) for name in given], settings, Path.cwd()), message, as_json)
    else:
        *files, question = given
        run(model, [Path(name) for name in files], question, settings, draw, as_json, _show, Path.cwd(), together)


@app.command(rich_help_panel="Models")
@decodes(beams=1)
def transcribe(
    model: Annotated[Path, typer.Argument(help="A folder with a fused decoder, such as models/fuse_spoken.")],
    files: Annotated[list[Path], typer.Argument(help="Sound or image files, each a sample of its own.")],
    settings: "Decoding",
    as_json: AsJson = False,
) -> None:
    """Write the text of each sound or image.

    Example: glassworks transcribe models/fuse_spoken lion.wav
    """
    from glassworks.inference.transcribe import run

    run(model, files, settings, as_json, _show, _note, Path.cwd())


@app.command(rich_help_panel="Models")
def index(
    model: Annotated[Path, typer.Argument(help="A folder with aligned heads, such as models/align_trimodal.")],
    dataset: Annotated[str, typer.Argument(help="A data set of params.yaml, whose shards are made.")],
) -> None:
    """Write the vectors of a data set by aligned heads to data/indexes/MODEL/DATASET, for `retrieve`.

    Stored features of the data set are read; without them, the encoders compute them.

    Example: glassworks index models/align_trimodal spoken
    """
    from glassworks.inference.index import make

    folder, counts = make(model, dataset, Path.cwd())
    found = ", ".join(f"{count:,} {name}" for name, count in counts["samples"].items())
    typer.echo(f"{folder}: {found}")


@app.command(rich_help_panel="Models")
def retrieve(
    model: Annotated[Path, typer.Argument(help="A folder with aligned heads whose data set has an index.")],
    text: Annotated[str | None, typer.Option(help="The text to search with.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="The image to search with.")] = None,
    speech: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The WAV, FLAC, MP3 or Ogg file to search with.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The indexed data set; not needed for a model with one index.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Compare only the first numbers of the vectors: one of the model's `widths`.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Items of each modality.")] = 5,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page with pictures and players; it opens offline.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the items of an index that are nearest to a text, an image or speech, in every modality.

    Example: glassworks retrieve models/align_trimodal --text "a rocket" --html found.html
    """
    from glassworks.inference.retrieve import read_query, run

    query = read_query(text, image, speech)
    run(model, query, dataset, width, count, as_json, html, _show, _note, Path.cwd())


@app.command(rich_help_panel="Models")
def demo(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL…",
            help="Model folders: models/NAME, an adapter trained here, or published language models (data/weights/NAME).",
        ),
    ],
    port: Port = 8642,
    host: Host = "127.0.0.1",
    max_megabytes: Annotated[
        int, typer.Option(min=1, max=1024, help="Largest file that a browser may send, in MiB.")
    ] = 16,
    browse: Browse = False,
    threads: Threads = 1,
) -> None:
    """Try models on a web page: captions with attention maps, questions about images, search, transcription, conversations and texts.

    The page has a panel for all that the named models can do. It fetches nothing, and stores nothing that is sent to it. A search needs an index
    (`glassworks index`). Needs the extra `demo`. Ctrl-C ends the server.

    Example: glassworks demo models/caption_scenes models/vlm_long models/sft_smollm2 --open
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    with uninterrupted():
        from glassworks.demo.command import run

    run(models, host, port, max_megabytes, browse, threads, _show, _note, Path.cwd())


@app.command(rich_help_panel="Models")
def export(
    model: Annotated[
        Path, typer.Argument(help="A folder with a language model that was trained here (models/NAME), or an adapter.")
    ],
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
    form: Annotated[
        Literal["transformers", "adapter", "gguf"],
        typer.Option(
            "--format",
            help="transformers: GPT-2, Llama or Qwen2, depending on its settings; an adapter is merged. adapter: peft's layout, for the published model. "
            "gguf: one file for llama.cpp, of Llama, Qwen2 and Qwen3; also of published weights (data/weights/NAME).",
        ),
    ] = "transformers",
    base: Base = None,
    gguf_type: Annotated[
        Literal["f16", "f32", "q8_0"] | None,
        typer.Option(
            help="The numbers of a GGUF: 16 or 32 bit, or 8 bit with a scale for every 32.", show_default="f16"
        ),
    ] = None,
) -> None:
    """Export a language model with its tokenizer, chat template and end tokens.

    Example: glassworks export models/sft_smollm2 sft_smollm2-gguf --format gguf
    """
    from glassworks.inference.export import run

    if gguf_type is not None and form != "gguf":
        raise ConfigError(f"--gguf-type {gguf_type}: only --format gguf has types")
    done = run(model, folder, Path.cwd(), form, base, gguf_type or "f16")
    typer.echo(f"{folder}: {done.architecture}" + (f"\n{done.merged}" if done.merged else ""))


def _converse(conversation: "Dialogue", message: list[str] | None, as_json: bool) -> None:
    """Answer the given messages; without any, those of the terminal or of standard input."""
    from glassworks.inference.chat import read_turns, run, talk

    if message is None and sys.stdin.isatty() and not as_json:
        import readline  # noqa: F401  edits and recalls lines of `input`

        talk(conversation, _show, lambda text: print(text, end="", file=sys.stderr, flush=True))
    else:
        run(conversation, read_turns() if message is None else message, as_json, _show)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
