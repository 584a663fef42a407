"""Commands on the project and its artefacts."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from glassworks.cli.app import Browse, Host, Port, Threads, app
from glassworks.cli.running import open_table, runner, set_instruction_set
from glassworks.errors import ArtifactError, ConfigError

Checked = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STAGE|FOLDER]…",
        help="Stages such as train-caption_scenes, or folders of `glassworks publish`; all stages when none is named.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(rich_help_panel="Project")
def status(as_json: AsJson = False) -> None:
    """Show which stages are fresh, stale or missing."""
    from glassworks.project.listing import States

    table = open_table()
    states = States(table)
    if as_json:
        found = [
            {"stage": stage.name, "state": states.of(stage), "directory": stage.directory, "kind": stage.kind}
            for stage in table
        ]
        typer.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for stage in table:
        typer.echo(f"{states.of(stage):8} {stage.name:36} {stage.directory}")


@app.command("ls", rich_help_panel="Project")
def list_project(as_json: AsJson = False) -> None:
    """List the data sets, experiments and models with their state, headline scores and sizes.

    Example: glassworks ls
    """
    from glassworks.project.listing import lines, listing

    found = listing(open_table())
    typer.echo(json.dumps(found, ensure_ascii=False, indent=1) if as_json else "\n".join(lines(found)))


@app.command(rich_help_panel="Project")
def leaderboard(
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Markdown page.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the scores of each evaluation with their intervals, and the training behind them: seconds, commit, digest of the weights.

    Example: glassworks leaderboard --write docs/records/leaderboard.md
    """
    from glassworks.artifacts.digests import write_text
    from glassworks.project import leaderboard as rows_of

    rows, left = rows_of.leaderboard(open_table())
    if write is not None:
        write_text(write, rows_of.page(rows))
    elif as_json:
        typer.echo(json.dumps([row._asdict() for row in rows], ensure_ascii=False, indent=1))
    else:
        for line in rows_of.lines(rows):
            typer.echo(line)
    for one in left:
        typer.echo(f"left out: {one}; make it first", err=True)


@app.command(rich_help_panel="Project")
def explain(
    stage: Annotated[str, typer.Argument(help="A stage such as train-caption_scenes; `glassworks status` lists them.")],
    as_json: AsJson = False,
) -> None:
    """Say what a stage reads and writes, why it is stale, and what its last run cost.

    Example: glassworks explain train-caption_scenes
    """
    from glassworks.project.explanation import explanation, lines

    table = open_table()
    found = explanation(table, table[stage])
    typer.echo(json.dumps(found, ensure_ascii=False, indent=1) if as_json else "\n".join(lines(found)))


@app.command(rich_help_panel="Project")
def profile(
    stage: Annotated[
        str, typer.Argument(help="A stage such as evaluate-lm_kjv-language; `glassworks status` lists them.")
    ],
    as_json: AsJson = False,
) -> None:
    """Run a stage again in a scratch folder, and show where its time goes: imports, packages, functions. It publishes nothing.

    The steps of a training have a profile of their own: `glassworks train EXPERIMENT --profile`.

    Example: glassworks profile evaluate-lm_kjv-language
    """
    from glassworks.diagnosis.stage_profile import lines, profile_stage

    table = open_table()
    set_instruction_set(table.project.params.determinism.cpu_isa)
    found = profile_stage(table, table[stage], lambda: runner(table[stage].kind))
    if as_json:
        rows = {name: [row._asdict() for row in getattr(found, name)] for name in ("packages", "functions")}
        typer.echo(json.dumps({**found._asdict(), **rows}, ensure_ascii=False, indent=1))
    else:
        typer.echo("\n".join(lines(found)))


@app.command(rich_help_panel="Project")
def watch(
    terminal: Annotated[bool, typer.Option("--terminal", help="Show it in the terminal, without a server.")] = False,
    port: Port = 8643,
    host: Host = "127.0.0.1",
    browse: Browse = False,
) -> None:
    """Show the stages that run and have run: graph, loss curves, rate, time left, memory, logs, kills and resumes.

    It reads files only, so it may run on any machine that sees the project's folder. The page needs the extra `demo`, --terminal does not. Ctrl-C
    ends it.

    Example: glassworks watch --open
    """
    if terminal:
        from rich.console import Console

        from glassworks.watch.observer import Observer
        from glassworks.watch.terminal import run as run_terminal

        run_terminal(Observer(Path.cwd()), Console())
    else:
        from glassworks.watch.command import run

        run(
            Path.cwd(),
            host,
            port,
            browse,
            lambda text: typer.echo(text, nl=False),
            lambda text: typer.echo(f"note: {text}", err=True),
        )


@app.command(rich_help_panel="Project")
def preview(
    dataset: Annotated[str, typer.Argument(help="A data set of params.yaml, whose shards are made.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; preview-DATASET.html in this folder by default.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples of each split.")] = 24,
) -> None:
    """Write a page with samples as a model will see them, lengths of texts, equal contents across splits, and dropped samples.

    The page opens offline.

    Example: glassworks preview photos --output photos.html
    """
    from glassworks.project.preview import run

    run(Path.cwd(), dataset, output or Path(f"preview-{dataset}.html"), count, typer.echo)


@app.command(rich_help_panel="Project")
def verify(
    stages: Checked = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run each named stage again in a scratch directory and compare every byte.")
    ] = False,
    threads: Threads = 1,
) -> None:
    """Check every file of the artefacts against its manifest. With --rerun, run stages again and check that they give the same bytes.

    A published folder is checked against its record, anywhere. In the project that made it, --rerun trains its model again and compares every file.

    Example: glassworks verify downloads/lm_kjv
    """
    from glassworks.pipeline import verification
    from glassworks.publishing.checking import is_published

    folders = [Path(name) for name in stages or [] if is_published(Path(name))]
    for folder in folders:
        _verify_published(folder, rerun, threads)
    named = [name for name in stages or [] if Path(name) not in folders]
    if folders and not named:
        return
    for name in named:
        if "/" in name or Path(name).is_dir():
            raise ArtifactError(
                f"{name}: no glassworks.json there, so it is no folder of `glassworks publish`; `glassworks status` lists the stages"
            )
    table = open_table()
    if rerun and not named:
        raise ConfigError(
            "verify --rerun: name the stages to run again, such as `glassworks verify --rerun train-caption_scenes`"
        )
    chosen = [table[name] for name in named] if named else list(table)
    for stage in chosen:
        if rerun:
            set_instruction_set(table.project.params.determinism.cpu_isa)
            line = verification.rerun_and_compare(table, stage, runner(stage.kind), threads)
        else:
            line = verification.check(table, stage)
        typer.echo(line)


def _verify_published(folder: Path, rerun: bool, threads: int) -> None:
    """Check a published folder, then compare it with the project in the current folder, if there is one."""
    from glassworks.config.project import PARAMS
    from glassworks.publishing import checking

    typer.echo(checking.check(folder))
    if not (Path(PARAMS).is_file() and Path("experiments").is_dir()):
        typer.echo(f"{folder}: there is no project in the current folder, so only digests were checked")
        return
    table = open_table()
    if not rerun:
        typer.echo(checking.compare_with_project(table, folder))
        return
    set_instruction_set(table.project.params.determinism.cpu_isa)
    for line in checking.rebuild_and_compare(table, folder, runner("train"), threads):
        typer.echo(line)


@app.command(rich_help_panel="Project")
def compare(
    run_a: Annotated[
        Path, typer.Argument(help="A trained model (models/NAME) or work in progress (.work/train-NAME-KEY).")
    ],
    run_b: Annotated[Path, typer.Argument(help="The other one, such as a copy of models/NAME from another machine.")],
    as_json: AsJson = False,
) -> None:
    """Find where two training runs diverge: the step, the first tensor, the first metric, and the differences between their recipes.

    Weights are compared by digests.jsonl, which has a digest of every tensor each training.digest_every steps. metrics.jsonl has a row for every step
    and narrows the step down. Different tokens mean different data. The same tokens with a different loss or gradient_norm usually mean different
    arithmetic.

    Exit code: 0 if the runs are equal up to the last common step, 1 if they differ, 4 if they cannot be compared.
    """
    from glassworks.diagnosis.compare import compare as compare_runs

    comparison = compare_runs(run_a, run_b)
    if as_json:
        typer.echo(json.dumps({"equal": comparison.equal, "lines": comparison.lines}, ensure_ascii=False, indent=1))
    else:
        typer.echo("\n".join(comparison.lines))
    if not comparison.equal:
        raise typer.Exit(1)


@app.command(rich_help_panel="Project")
def accept(
    stages: Annotated[list[str], typer.Argument(help="Stages whose result you vouch for after a change of code.")],
) -> None:
    """Mark artefacts as fresh after a code change that does not alter their bytes (a refactoring).

    The provenance records this. `verify --rerun` checks it.
    """
    from glassworks.pipeline import verification

    table = open_table()
    for name in stages:
        typer.echo(verification.accept(table, table[name]))
    _record(table)


@app.command(rich_help_panel="Project")
def record() -> None:
    """Record every fresh stage in dvc.lock, and update dvc.yaml and results/report.html. Snakemake does this after every successful run."""
    from glassworks.report.view import write_view

    table = open_table()
    _record(table)
    write_view(table.project.root, table)


@app.command(rich_help_panel="Project")
def push() -> None:
    """Upload the files in dvc.lock to the default DVC remote (docs/how-to/remotes.md)."""
    from glassworks.pipeline import remotes

    typer.echo(remotes.push(Path.cwd()))


@app.command(rich_help_panel="Project")
def pull() -> None:
    """Download the files in dvc.lock from the default DVC remote, and update results/report.html."""
    from glassworks.pipeline import remotes
    from glassworks.pipeline.freshness import Keys
    from glassworks.report.view import write_view

    table = open_table()
    brought = remotes.pull(table.project.root)
    write_view(table.project.root, table)
    fresh = Keys(table).fresh()
    typer.echo(f"{brought}; {sum(map(bool, fresh.values()))} of {len(fresh)} stages are fresh")


@app.command(rich_help_panel="Project")
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes only, and write nothing.")] = False,
) -> None:
    """Rename the keys of params.yaml and experiments/*.yaml that have another name now. Comments and layout stay.

    Nothing is written if a file has another fault.

    Example: glassworks migrate --dry-run
    """
    from glassworks.project.migration import migrate as run

    run(Path.cwd(), dry_run, typer.echo)


@app.command("dvc-yaml", rich_help_panel="Project")
def dvc_yaml() -> None:
    """Compile dvc.yaml from the stage table."""
    from glassworks.artifacts.digests import write_text
    from glassworks.pipeline.dvc import compile_dvc

    table = open_table()
    write_text(table.project.root / "dvc.yaml", compile_dvc(table))


@app.command(rich_help_panel="Project")
def schemas() -> None:
    """Write the JSON Schemas for params.yaml and experiments/*.yaml, and the pages of docs/reference/ that describe every key.

    Editors use the schemas to complete and check the YAML files.
    """
    from glassworks.artifacts.digests import write_text
    from glassworks.config.project import SCHEMAS, schema_text
    from glassworks.config.reference import reference_text

    for folder in ("schemas", "docs/reference"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for name in SCHEMAS:
        write_text(Path("schemas", f"{name}.schema.json"), schema_text(name))
        write_text(Path("docs/reference", f"{name}.md"), reference_text(name))


def _record(table: Any) -> None:
    from glassworks.pipeline.dvc import record as record_in_dvc

    names = record_in_dvc(table)
    typer.echo(f"{len(names)} fresh stages recorded in dvc.lock", err=True)
