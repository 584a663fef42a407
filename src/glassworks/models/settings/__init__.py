"""Shapes of the networks, one file per network. Their import does not load torch."""
