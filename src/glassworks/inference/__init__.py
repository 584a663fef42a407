"""Use of trained models: `glassworks generate`, `chat`, `caption` and `export`."""
