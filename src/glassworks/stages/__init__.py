"""Stages: one module per kind of stage, with `run(context) -> counts`, and `run_job(context, job)` for stages with parallel jobs."""
