"""Trained models answer people: `glassworks generate` and `glassworks caption`."""
