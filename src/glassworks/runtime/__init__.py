"""Execution of a run: processes, nodes, devices, signals, loggers. This code changes no byte of a result, so no stage's key covers it."""
