"""Imported by the server that forks workers, and by nothing else: what a worker says that cannot even begin."""

import sys
from types import TracebackType


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Nothing, when whoever asked for the worker is gone and with it what it was to be handed; the usual traceback for all else."""
    if not issubclass(kind, (OSError, EOFError)):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report
