"""How many cores this process may use."""

import os


def available_cores() -> int:
    """Those it is bound to, where the system tells; else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
