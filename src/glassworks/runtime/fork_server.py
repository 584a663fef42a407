"""A single-threaded server that forks workers. It preloads all imports, so workers start at once and inherit no held lock.

It starts before this process imports torch, so that both import it in parallel.
"""

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker

PRELOADED = ["glassworks.runtime.forked", "glassworks.cli"]
"""The imports of every worker, its main module included."""
HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
"""Signals blocked in the server; a worker unblocks those that it handles."""


def start(*modules: str) -> None:
    """Start the server unless it runs. It also preloads `modules`, and ends after this process and its workers."""
    multiprocessing.set_forkserver_preload([*PRELOADED, *modules])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)  # child processes inherit the mask
    try:
        resource_tracker.ensure_running()  # unblocks two of them
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
