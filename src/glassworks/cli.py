"""`glassworks VERB …`: one verb per stage, which Snakemake calls, and verbs for people.

This is the one place where errors are caught: what a user can put right is printed as one line and ends with a stable exit code (docs/errors.md).
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from glassworks.console import copied_to
from glassworks.errors import ConfigError, UserError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n\n")[0]
)

RUNNERS = {
    "fetch": "glassworks.data.fetch",
    "records": "glassworks.data.records",
    "shards": "glassworks.data.shards",
    "weights": "glassworks.data.weights",
    "tokenizer": "glassworks.data.tokenizer",
    "train": "glassworks.training.run",
    "evaluate": "glassworks.evaluation.run",
    "report": "glassworks.report.run",
}
"""The module of each kind of stage: `run(context)`, and `run_job(context, job)` where parts are prepared in parallel."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells use it."""

Subject = Annotated[str, typer.Argument(help="A dataset or an experiment, as params.yaml names it.")]
Threads = Annotated[int, typer.Option(min=1, help="Cores to use.")]
Log = Annotated[Path | None, typer.Option(help="Write a copy of what is shown to this file.")]
Stages = Annotated[
    list[str] | None, typer.Argument(help="Stages such as train-caption_scenes; all when none is named.")
]

Temperature = Annotated[
    float,
    typer.Option(
        help="0 takes the likeliest token each time; larger values draw at random, bolder as they grow. 0.7 is careful, 1 is as the model was trained."
    ),
]
TopK = Annotated[int | None, typer.Option(help="Draw only among so many likeliest tokens (with --temperature).")]
TopP = Annotated[
    float,
    typer.Option(
        help="Draw only among the likeliest tokens that together have this probability (with --temperature); 0.9 cuts the unlikely tail."
    ),
]
MinP = Annotated[
    float,
    typer.Option(
        help="Draw only tokens that have this share of the likeliest one's probability (with --temperature); 0.05 suits high temperatures."
    ),
]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        help="Above 1 makes tokens that were there before less likely; 1.1 to 1.3 stops a small model from going in circles."
    ),
]
LengthPenalty = Annotated[
    float,
    typer.Option(
        help="With --beams: 0 favours short texts, 1 compares by the mean of a token, more favours long ones."
    ),
]
MinNewTokens = Annotated[int, typer.Option(help="Let no text end before so many new tokens.")]
Seed = Annotated[
    int,
    typer.Option(help="Seed of the draws: the same seed gives the same text, whatever else is asked in the same call."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")]


@app.command(rich_help_panel="Stages")
def fetch(dataset: Subject, threads: Threads = 1, log: Log = None) -> None:
    """Fetch the raw files of a dataset; a partial download continues."""
    run_stage(f"fetch-{dataset}", threads, log)


@app.command(rich_help_panel="Stages")
def records(dataset: Subject, threads: Threads = 1, log: Log = None) -> None:
    """Turn raw files into a table of records: key, split, captions, labels."""
    run_stage(f"records-{dataset}", threads, log)


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
    """Write records and their media as WebDataset tars with sidecars."""
    run_stage(f"shards-{dataset}", threads, log, job)


@app.command(rich_help_panel="Stages")
def weights(
    name: Annotated[str, typer.Argument(help="An entry under `weights` in params.yaml.")],
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Fetch published weights and convert them to the hub's layout; a partial download continues."""
    run_stage(f"weights-{name}", threads, log)


@app.command(rich_help_panel="Stages")
def tokenizer(experiment: Subject, threads: Threads = 1, log: Log = None) -> None:
    """Train the tokenizer of an experiment on its training split."""
    run_stage(f"tokenizer-{experiment}", threads, log)


@app.command(rich_help_panel="Stages")
def train(
    experiment: Subject,
    threads: Threads = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Training processes, a power of two; as many as --threads allows by default."),
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
    """Train the model of an experiment; an interrupted run continues from its last checkpoint, with any number of workers to the same bytes."""
    if not profile:
        run_stage(f"train-{experiment}", threads, log, workers=workers)
        return
    with copied_to(log):
        table = open_table()
        stage = table[f"train-{experiment}"]
        set_instruction_set(table.project.params.determinism.cpu_isa)
        from glassworks.diagnosis.profile import profile as profile_stage

        typer.echo(profile_stage(table, stage, threads, workers))


@app.command(rich_help_panel="Stages")
def evaluate(experiment: Subject, threads: Threads = 1, log: Log = None) -> None:
    """Score a trained model on a held-out split, beside controls."""
    run_stage(f"evaluate-{experiment}", threads, log)


@app.command(rich_help_panel="Stages")
def report(threads: Threads = 1, log: Log = None) -> None:
    """Write results/report.html: one file that opens offline."""
    from glassworks.report.view import write_view

    run_stage("report", threads, log)
    write_view(Path.cwd(), open_table())


@app.command(rich_help_panel="People")
def status() -> None:
    """Show which stages are fresh, stale or missing."""
    from glassworks.artifacts.manifest import read_recipe
    from glassworks.pipeline.freshness import Keys

    table = open_table()
    fresh = Keys(table).fresh()
    for stage in table:
        if fresh[stage.name]:
            word = "fresh"
        elif read_recipe(table.project.root / stage.directory) is None:
            word = "missing"
        else:
            word = "stale"
        typer.echo(f"{word:8} {stage.name:36} {stage.directory}")


@app.command(rich_help_panel="People")
def verify(
    stages: Stages = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run each named stage again in a scratch directory and compare every byte.")
    ] = False,
    threads: Threads = 1,
) -> None:
    """Check every file of the artefacts against its manifest; with --rerun, prove that running a stage again gives the same bytes."""
    from glassworks.pipeline import verification

    table = open_table()
    if rerun and not stages:
        raise ConfigError(
            "verify --rerun: name the stages to run again, such as `glassworks verify --rerun train-caption_scenes`"
        )
    chosen = [table[name] for name in stages] if stages else list(table)
    for stage in chosen:
        if rerun:
            set_instruction_set(table.project.params.determinism.cpu_isa)
            line = verification.rerun_and_compare(table, stage, _runner(stage.kind), threads)
        else:
            line = verification.check(table, stage)
        typer.echo(line)


@app.command(rich_help_panel="People")
def compare(
    run_a: Annotated[
        Path, typer.Argument(help="A trained model (models/NAME) or work in progress (.work/train-NAME-KEY).")
    ],
    run_b: Annotated[Path, typer.Argument(help="The other one, such as a copy of models/NAME from another machine.")],
) -> None:
    """Find where two training runs part: the step, the first tensor, the first number that differs, and how their recipes differ.

    Weights are compared by digests.jsonl, which holds a digest of every tensor each training.digest_every steps; metrics.jsonl, with a row for every
    step, narrows it down: other tokens mean other data; the same tokens with another loss or gradient_norm, most often, other arithmetic.

    Ends with 0 when the runs are equal as far as both go, with 1 when they differ, with 4 when they cannot be compared.
    """
    from glassworks.diagnosis.compare import compare as compare_runs

    comparison = compare_runs(run_a, run_b)
    typer.echo("\n".join(comparison.lines))
    if not comparison.equal:
        raise typer.Exit(1)


@app.command(rich_help_panel="People")
def generate(
    model: Annotated[
        Path,
        typer.Argument(
            help="A folder with a language model: models/NAME, or published weights in transformers' layout (data/weights/NAME)."
        ),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="What the texts begin with; an empty one, or none, begins from BOS, where the tokenizer names one."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Read more prompts from this file, one a line; - is standard input.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="Tokens of a text at most; it may end earlier, and ends with the model's context.")
    ] = 100,
    min_new_tokens: MinNewTokens = 0,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    beams: Annotated[
        int,
        typer.Option(help="Search for the likeliest text among so many at a time, instead of drawing; 1 is no search."),
    ] = 1,
    length_penalty: LengthPenalty = 0.7,
    samples: Annotated[int, typer.Option(min=1, help="Texts for each prompt (with --temperature).")] = 1,
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Continue prompts with a language model. A single text appears while it is written.

    Example: glassworks generate models/lm_kjv "In the beginning" --temperature 0.8 --top-p 0.9
    """
    _set_threads(threads)
    from glassworks.inference.model_folders import decoding
    from glassworks.inference.text import read_prompts, run

    settings = decoding(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        beams=beams,
        length_penalty=length_penalty,
        min_new_tokens=min_new_tokens,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    if samples > 1 and not temperature:
        raise ConfigError(
            "--samples: without --temperature nothing is drawn, and all texts of a prompt would be the same"
        )
    run(model, read_prompts(prompts or [], file, sys.stdin.read), settings, samples, as_json, _show, Path.cwd())


@app.command(rich_help_panel="People")
def caption(
    model: Annotated[Path, typer.Argument(help="A folder with a captioner, such as models/caption_scenes.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write a PNG for each image into this folder: where the model looked for every word."
        ),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(
            help="Search for the likeliest caption among so many at a time; 3 unless --temperature is given, 1 is no search."
        ),
    ] = None,
    length_penalty: LengthPenalty = 0.7,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    min_new_tokens: MinNewTokens = 0,
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Say what is in images, by beam search as in evaluation, or with --temperature by random draws.

    Example: glassworks caption models/caption_scenes scene.png --attention maps
    """
    _set_threads(threads)
    from glassworks.inference.captions import run
    from glassworks.inference.model_folders import decoding

    settings = decoding(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        beams=beams if beams is not None else 1 if temperature else 3,
        length_penalty=length_penalty,
        min_new_tokens=min_new_tokens,
        seed=seed,
    )
    run(model, images, settings, attention, as_json, _show, Path.cwd())


@app.command(rich_help_panel="People")
def export(
    model: Annotated[Path, typer.Argument(help="A folder with a language model that was trained here: models/NAME.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
) -> None:
    """Write a language model as transformers has it (GPT-2, Llama or Qwen2, by its settings), with its tokenizer."""
    from glassworks.inference.export import run

    typer.echo(f"{folder}: {run(model, folder, Path.cwd())}")


@app.command(rich_help_panel="People")
def accept(
    stages: Annotated[list[str], typer.Argument(help="Stages whose result you vouch for after a change of code.")],
) -> None:
    """Re-stamp artefacts after a change that does not alter their bytes (a refactoring); the provenance says so, `verify --rerun` can hold you to it."""
    from glassworks.pipeline import verification

    table = open_table()
    for name in stages:
        typer.echo(verification.accept(table, table[name]))
    _record(table)


@app.command(rich_help_panel="People")
def record() -> None:
    """Record every fresh stage in dvc.lock (Snakemake's onsuccess does this), and bring dvc.yaml and results/report.html up to date."""
    from glassworks.report.view import write_view

    table = open_table()
    _record(table)
    write_view(table.project.root, table)


@app.command("dvc-yaml", rich_help_panel="People")
def dvc_yaml() -> None:
    """Compile dvc.yaml from the stage table."""
    from glassworks.artifacts.digests import write_text
    from glassworks.pipeline.dvc import compile_dvc

    table = open_table()
    write_text(table.project.root / "dvc.yaml", compile_dvc(table))


@app.command(rich_help_panel="People")
def schemas() -> None:
    """Write the JSON Schemas that editors use to complete and check params.yaml and experiments/*.yaml."""
    from glassworks.artifacts.digests import write_text
    from glassworks.config.project import SCHEMAS, schema_text

    Path("schemas").mkdir(exist_ok=True)
    for name in SCHEMAS:
        write_text(Path("schemas", f"{name}.schema.json"), schema_text(name))


def open_table(root: Path | None = None) -> Any:
    """The stage table of the project in the current folder; refuses when the code that runs is not the code that is digested."""
    from glassworks.config.project import load_project
    from glassworks.pipeline.table import PACKAGE, Table

    root = root or Path.cwd()
    here, running = (root / PACKAGE).resolve(), Path(__file__).resolve().parent
    if here.is_dir() and here != running:
        raise ConfigError(
            f"this glassworks runs from {running}, but this project's code is in {here}; use this project's .venv/bin/glassworks"
        )
    return Table(load_project(root))


def run_stage(
    name: str,
    threads: int = 1,
    log: Path | None = None,
    job: int | None = None,
    root: Path | None = None,
    workers: int | None = None,
) -> None:
    """Run one stage of the project, or part `job` of it."""
    from glassworks.pipeline.execution import execute, execute_job
    from glassworks.training import fork_server

    with copied_to(log):
        table = open_table(root)
        stage = table[name]
        set_instruction_set(table.project.params.determinism.cpu_isa)
        if stage.kind == "train" and max(threads, workers or 1) > 1:
            fork_server.start()
        if job is None:
            execute(table, stage, _runner(stage.kind), threads, workers)
        elif job < stage.jobs:
            execute_job(table, stage, job, _runner(stage.kind, "run_job"), threads)
        else:
            raise ConfigError(f"{name} has {stage.jobs} jobs, 0 to {stage.jobs - 1}; there is no job {job}")


def set_instruction_set(cpu_isa: str) -> None:
    """Fix what changes bits: the instruction set of the CPU kernels, one thread per process, cuBLAS's workspace. Must come before torch is imported."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if cpu_isa == "avx2":
        os.environ["ATEN_CPU_CAPABILITY"], os.environ["ONEDNN_MAX_CPU_ISA"] = "avx2", "AVX2"
        os.environ["MKL_ENABLE_INSTRUCTIONS"], os.environ["OPENBLAS_CORETYPE"] = "AVX2", "Haswell"


def _set_threads(threads: int) -> None:
    """For verbs that compute, outside of stages."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _runner(kind: str, function: str = "run") -> Callable[..., dict[str, Any]]:
    return getattr(importlib.import_module(RUNNERS[kind]), function)


def _record(table: Any) -> None:
    from glassworks.pipeline.dvc import record as record_in_dvc

    names = record_in_dvc(table)
    typer.echo(f"{len(names)} fresh stages recorded in dvc.lock", err=True)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """The entry point: errors a user can put right become one line and a stable exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(standalone_mode=False)  # an exit code where typer itself ended the command
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()  # a usage error of the command line
        code = error.exit_code
    if code == INTERRUPTED:
        print("interrupted; the same command continues where it can", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
