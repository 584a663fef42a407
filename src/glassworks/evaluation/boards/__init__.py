"""Boards solved by a recursive model."""
