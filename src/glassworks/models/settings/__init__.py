"""Shapes of the networks, one file per network. Importing them loads no torch."""
