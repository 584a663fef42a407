"""Stages: one module per kind of stage, with `run(context) -> counts`, and `run_job(context, job)` where parallel jobs prepare parts."""
