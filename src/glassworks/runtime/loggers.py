"""Loggers of the rows of metrics.jsonl: TensorBoard and Weights & Biases.

metrics.jsonl is the record; loggers are views of it. A logger never stops, changes or long delays a run: after an error it is dropped with a warning. Both
libraries are imported on demand, which saves other commands a second.
"""

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from glassworks.artifacts import attempts
from glassworks.training.metrics_log import Logger, LogRow, step_of

WAIT = 20.0
"""Timeout in seconds for W&B's server, at the start of a run and for pending rows at its end."""


def open_loggers(
    names: Sequence[str],
    *,
    experiment: str,
    folder: Path,
    settings: dict[str, Any],
    run_id: str,
    first_step: int,
    rows: Iterable[LogRow] = (),
) -> list[Logger]:
    """The loggers "tensorboard" and "wandb" for a run that continues after `first_step`. Call it on rank 0 only.

    A logger that fails to open is left out with a warning. A run resumed under the same `run_id` continues its curves.
    `rows` are those up to `first_step`: a killed run may not have sent all of them. Its continuation is noted for `glassworks watch`.
    """
    if first_step:
        attempts.resume(folder.parent / ".work" / run_id, first_step)
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


def scalars(row: LogRow) -> dict[str, float]:
    """The numbers of a row by display name: train/loss, validation/loss (from validation_loss), …"""
    return {
        f"validation/{key.removeprefix('validation_')}" if key.startswith("validation_") else f"train/{key}": value
        for key, value in row.items()
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class _Guarded:
    """Swallows the errors of a logger: a failed curve must not end hours of training."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name, self._logger = name, logger
        self._open = True

    def log(self, row: LogRow) -> None:
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
    """Event files in folder/tensorboard/experiment/run_id, one per start of the run."""

    def __init__(self, folder: Path, settings: dict[str, Any], first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        started_before = any(folder.glob("events.*"))
        # Readers discard the steps that a killed run logged after its last checkpoint: they are logged again.
        self._writer = SummaryWriter(folder, purge_step=first_step + 1)
        if not started_before:
            code = textwrap.indent(json.dumps(settings, indent=2, default=str), "    ")  # in Markdown
            self._writer.add_text("settings", code)

    def log(self, row: LogRow) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, step_of(row))
        # Empty the writer's queue: rows before a checkpoint must survive a kill, and an error must surface at its row.
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of the project glassworks. Only rows and settings are sent, and nothing is received.

    With WANDB_MODE=offline, or without a reachable server, the run is recorded in folder/wandb for `wandb sync`. A
    resumed run records all its rows again, so the newest record is complete.
    """

    def __init__(
        self, experiment: str, folder: Path, settings: dict[str, Any], run_id: str, rows: Iterable[LogRow]
    ) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no crash reports
        import wandb

        folder.mkdir(parents=True, exist_ok=True)  # wandb creates wandb/ in it, and falls back to /tmp
        quiet = wandb.Settings(
            silent=True,  # also disables the prompt for a key
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_machine_info=True,
            x_disable_stats=True,  # its process might outlive a killed run
            x_save_requirements=False,
            init_timeout=WAIT,
            finish_timeout=WAIT,
            finish_timeout_raises=True,
            stop_fn=lambda: None,  # by default the stop button of the web page sends SIGINT
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

        hooks = sys.exit, sys.excepthook  # wandb replaces them to learn the exit code
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
        for row in rows:  # wandb buffers rows: a kill loses dozens of them
            self.log(row)

    @property
    def _directory(self) -> Path:
        return Path(self._run.dir).parent

    def log(self, row: LogRow) -> None:
        # W&B ignores steps that it has: a resumed run logs equal rows again.
        self._run.log(scalars(row), step=step_of(row))

    def close(self) -> None:
        import wandb

        try:
            self._run.finish(exit_code=int(sys.exc_info()[0] is not None))
        except TimeoutError:
            raise TimeoutError(f"the server does not answer; `wandb sync {self._directory}` sends the rest") from None
        finally:
            wandb.teardown()  # ends its service process, which would outlive the run


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def _warn(name: str, message: str) -> None:
    print(f"warning: {name}: {message} (metrics.jsonl has every row)", file=sys.stderr, flush=True)
