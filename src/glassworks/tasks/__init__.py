"""Objectives: one folder per task, with the name that `task:` has in experiments/*.yaml.

`settings.py` holds a subclass of `Experiment`. `task.py` implements `protocol.TaskModule`: `make(experiment, inputs, fingerprint)` returns the task
(`glassworks.training.task.Task`), and `load(inputs, data)` a trained model with its task.
"""
