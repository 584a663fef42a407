"""One line on the terminal for each job of Snakemake. Its log file below .snakemake/log/ keeps everything."""

import logging
import time
from typing import Any

HANDLER = "DefaultStreamHandler"
"""Snakemake's name of its handler for the terminal."""
SCHEDULER = (
    "Assuming unrestricted shared filesystem usage",
    "Execute ",
    "Provided cores:",
    "Rules claiming more threads",
    "Select jobs to execute",
    "Singularity containers:",
    "Using shell:",
    "Using workflow specific profile",
)
"""Beginnings of messages about scheduling that say nothing about a job."""
DONE = ("job_finished", "progress", "job_started")


class OneLine(logging.Filter):
    """Leaves out messages about scheduling and finished jobs, and blank lines between jobs."""

    def __init__(self, handler: Any) -> None:
        super().__init__()
        self.handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        self.handler.last_msg_was_job_info = True  # Snakemake writes a blank line before a job otherwise
        event = _event(record)
        if event == "job_info":  # the rule `all` has no message and does nothing
            return bool(getattr(record, "rule_msg", None)) or getattr(record, "rule_name", "") != "all"
        return event not in DONE and not str(record.msg).startswith(SCHEDULER)


class JobLine(logging.Formatter):
    """A job by its time and its message; every other message as Snakemake formats it."""

    def __init__(self, plain: logging.Formatter) -> None:
        super().__init__()
        self.plain = plain

    def format(self, record: logging.LogRecord) -> str:
        message = getattr(record, "rule_msg", None)
        if _event(record) == "job_info" and message:
            return f"[{time.strftime('%H:%M:%S', time.localtime(record.created))}] {message}"
        return self.plain.format(record)


def one_line_a_job(output: Any) -> None:
    """Shorten what Snakemake prints in a run. A dry run, `--verbose` and a logger plugin keep their own output."""
    if output.dryrun or output.verbose:
        return
    for handler in logging.getLogger("snakemake.logging").handlers:
        if handler.name == HANDLER and handler.formatter:
            handler.addFilter(OneLine(handler))
            handler.setFormatter(JobLine(handler.formatter))


def _event(record: logging.LogRecord) -> str:
    event = getattr(record, "event", None)
    return str(getattr(event, "value", event) or "")
