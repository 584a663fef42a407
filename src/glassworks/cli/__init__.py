"""`glassworks VERB …`: one command per kind of stage, which Snakemake calls, and commands for users.

`UserError`s are caught here. Each is printed as one line and exits with a stable exit code (docs/reference/errors.md).
"""

import os
import signal
import sys
import threading
from types import FrameType

import typer

from glassworks.cli import models, new, project, publishing, stages  # noqa: F401  importing registers the commands, in the order of --help
from glassworks.cli.app import app
from glassworks.cli.running import run_the_projects_code
from glassworks.errors import UserError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _is_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C caused the error. Some libraries, pydantic among them, raise an error of their own from it."""
    while cause := error.__cause__:
        error = cause
    return isinstance(error, KeyboardInterrupt)


def main() -> None:
    """The entry point. Turns a `UserError` into one line and a stable exit code."""
    run_the_projects_code()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(standalone_mode=False)  # an exit code if typer itself ended the command
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
        if _is_interruption(error):
            code = INTERRUPTED
        elif hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()  # a usage error of the command line
            code = error.exit_code
        else:
            raise
    if code == INTERRUPTED:
        print("interrupted; the same command continues where it can", file=sys.stderr)
    sys.exit(code)
