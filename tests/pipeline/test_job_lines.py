"""What Snakemake prints is one line a job; errors and warnings stay."""

import io
import logging
from types import SimpleNamespace

from snakemake.logging import ColorizingTextHandler, DefaultFormatter

from glassworks.pipeline.job_lines import one_line_a_job


def printed(output: SimpleNamespace, *records: dict) -> str:
    logger, stream = logging.getLogger("snakemake.logging"), io.StringIO()
    handler = ColorizingTextHandler(nocolor=True, stream=stream, formatter=DefaultFormatter())
    handler.name = "DefaultStreamHandler"
    before, logger.handlers = logger.handlers, [handler]
    try:
        one_line_a_job(output)
        for record in records:
            handler.handle(logging.makeLogRecord({"levelname": "INFO", "levelno": logging.INFO, **record}))
    finally:
        logger.handlers = before
    return stream.getvalue()


def job(message: str | None, rule: str = "train") -> dict:
    fields = {"jobid": 7, "rule_msg": message, "rule_name": rule, "reason": "missing", "local": False}
    more = {"input": [], "output": [], "log": [], "benchmark": None, "wildcards": {}, "priority": 0, "threads": 1}
    return {"event": "job_info", "msg": None, **fields, **more, "is_checkpoint": False, "resources": {}}


RECORDS = [
    {"msg": "Select jobs to execute..."},
    {"msg": "Execute 1 jobs..."},
    job("Training tiny"),
    {"event": "job_finished", "msg": "Finished jobid: 7 (Rule: train)"},
    {"event": "progress", "msg": None, "done": 1, "total": 2},
    job(None, "all"),
    {"msg": "Complete log(s): x"},
]


def test_a_job_is_one_line():
    lines = printed(SimpleNamespace(dryrun=False, verbose=False), *RECORDS).splitlines()
    assert [line[11:] if line.startswith("[") else line for line in lines] == ["Training tiny", "Complete log(s): x"]


def test_a_dry_run_keeps_the_reasons():
    text = printed(SimpleNamespace(dryrun=True, verbose=False), *RECORDS)
    assert "Job 7: Training tiny" in text and "Reason: missing" in text
