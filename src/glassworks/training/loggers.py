"""Where the rows of metrics.jsonl are shown besides: TensorBoard and Weights & Biases.

metrics.jsonl is the record; these are views of it. A view never stops, delays for long or changes a training run: one that fails is dropped with one line.
Both libraries are imported only when asked for, which saves every other command a second.
"""

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

WAIT = 20.0
"""Seconds that W&B's server may take to answer when a run begins, and to receive what is left when it ends."""


class Logger(Protocol):
    """Shows rows as they are written to metrics.jsonl."""

    def log(self, row: dict[str, Any]) -> None:
        """Show the numbers of a row: {"step": 12, "loss": 3.1, …} or {"step": 12, "validation_loss": 3.4, …}."""
        ...

    def close(self) -> None:
        """Hand over what is left; the logger is of no use afterwards."""
        ...


def open_loggers(
    names: Sequence[str],
    *,
    experiment: str,
    folder: Path,
    settings: dict[str, Any],
    run_id: str,
    first_step: int,
    rows: Iterable[dict[str, Any]] = (),
) -> list[Logger]:
    """Open "tensorboard" and "wandb" for a run that continues after `first_step`; one that cannot be opened is left out.

    A run that is resumed under the same `run_id` continues its curves; `rows` are those up to `first_step`, for what a
    killed run did not get to send. For the worker of rank 0 alone.
    """
    loggers: list[Logger] = []
    for name in names:
        try:
            if name == "tensorboard":
                logger: Logger = _TensorBoard(folder / name / experiment / run_id, settings, first_step)
            elif name == "wandb":
                logger = _WeightsAndBiases(experiment, folder, settings, run_id, rows)
            else:
                raise ValueError("no such logger; there are tensorboard and wandb")
        except Exception as error:
            _warn(name, _line(error))
        else:
            loggers.append(_Guarded(name, logger))
    return loggers


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row by the names they are shown under: train/loss, validation/loss (from validation_loss), …"""
    return {
        f"validation/{key.removeprefix('validation_')}" if key.startswith("validation_") else f"train/{key}": value
        for key, value in row.items()
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class _Guarded:
    """The one place where any error is swallowed: hours of training are worth more than a curve."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name, self._logger = name, logger
        self._open = True

    def log(self, row: dict[str, Any]) -> None:
        if self._open:
            try:
                self._logger.log(row)
            except Exception as error:
                self._open = False
                _warn(self._name, _line(error))
                with suppress(Exception):
                    self._logger.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            try:
                self._logger.close()
            except Exception as error:
                _warn(self._name, _line(error))


class _TensorBoard:
    """An event file in folder/tensorboard/experiment/run_id for each time the run is started."""

    def __init__(self, folder: Path, settings: dict[str, Any], first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        started_before = any(folder.glob("events.*"))
        # Readers forget the steps that a killed run had shown after its last checkpoint: they come again.
        self._writer = SummaryWriter(folder, purge_step=first_step + 1)
        if not started_before:
            code = textwrap.indent(json.dumps(settings, indent=2, default=str), "    ")  # in Markdown
            self._writer.add_text("settings", code)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["step"])
        # Out of the writer's queue: what a checkpoint stands for must survive a kill, and errors belong to their row.
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of the project glassworks. Rows and settings go out; nothing comes in, and nothing else is collected.

    With WANDB_MODE=offline, or where the server cannot be used, it is recorded in folder/wandb for `wandb sync`: after a
    resume anew and whole, so that the newest record is the one to send.
    """

    def __init__(
        self, experiment: str, folder: Path, settings: dict[str, Any], run_id: str, rows: Iterable[dict[str, Any]]
    ) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its makers need not hear of errors
        import wandb

        folder.mkdir(parents=True, exist_ok=True)  # wandb adds wandb/; where it cannot write it takes /tmp
        quiet = wandb.Settings(
            silent=True,  # which also keeps it from asking for a key at the terminal
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_machine_info=True,
            x_disable_stats=True,  # one process less to outlive a killed run
            x_save_requirements=False,
            init_timeout=WAIT,
            finish_timeout=WAIT,
            finish_timeout_raises=True,
            stop_fn=lambda: None,  # by default the web page's stop button sends this process a SIGINT
            reinit="finish_previous",
        )

        def start(**mode: Any) -> Any:
            wandb.setup(settings=quiet.model_copy())
            return wandb.init(
                project="glassworks",
                name=experiment,
                id=re.sub(r"[^A-Za-z0-9_-]", "-", run_id)[:128],
                resume="allow",
                dir=str(folder),
                config=settings,
                settings=quiet.model_copy(),
                **mode,
            )

        hooks = sys.exit, sys.excepthook  # wandb puts its own there, to learn the exit code
        try:
            self._run = start()
        except Exception as error:
            with suppress(Exception):
                wandb.teardown()
            self._run = start(mode="offline")
            _warn("wandb", f"{_line(error)}; recording offline, for `wandb sync {self._directory}`")
        finally:
            sys.exit, sys.excepthook = hooks
        if self._run.url:
            print(f"wandb: {self._run.url}", file=sys.stderr, flush=True)
        for row in rows:  # it sends, and even writes to its file, with a delay: a kill costs dozens of rows
            self.log(row)

    @property
    def _directory(self) -> Path:
        return Path(self._run.dir).parent

    def log(self, row: dict[str, Any]) -> None:
        # W&B passes over the steps that it has: those a killed run sent after its checkpoint come again, equal.
        self._run.log(scalars(row), step=row["step"])

    def close(self) -> None:
        import wandb

        try:
            self._run.finish(exit_code=int(sys.exc_info()[0] is not None))
        except TimeoutError:
            raise TimeoutError(f"the server does not answer; `wandb sync {self._directory}` sends the rest") from None
        finally:
            wandb.teardown()  # ends its service process, which else would wait for this process to end


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def _warn(name: str, message: str) -> None:
    print(f"warning: {name}: {message} (metrics.jsonl has every row)", file=sys.stderr, flush=True)
