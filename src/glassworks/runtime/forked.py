"""Preloaded by the fork server: silences a worker whose parent died before the worker started."""

import sys
from types import TracebackType


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback, unless the pipe to the parent is closed."""
    if not issubclass(kind, (OSError, EOFError)):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report
