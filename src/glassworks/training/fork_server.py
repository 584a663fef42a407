"""A server that forks workers: it has imported everything and has a single thread, so its children start at once and cannot inherit a lock that nobody frees.

Started before this process imports torch itself, so that both import it at the same time.
"""

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker

PRELOADED = ["glassworks.training.run", "glassworks.training.forked", "glassworks.cli"]
"""What every worker needs, down to the command that it takes for its main module."""
HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
"""A signal to the whole process group is not for the server; a worker lets through what it heeds."""


def start(*modules: str) -> None:
    """Start the server unless it runs; it imports these modules, too, so that no worker has to. It ends with the last of this process and its workers."""
    multiprocessing.set_forkserver_preload([*PRELOADED, *modules])
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, HELD_BACK
    )  # what is blocked here stays blocked in child processes
    try:
        resource_tracker.ensure_running()  # lets two of them through again
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
