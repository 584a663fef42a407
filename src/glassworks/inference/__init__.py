"""Inference with trained models: `glassworks generate`, `glassworks caption` and `glassworks export`."""
