"""Solving puzzles with a recursive model."""
