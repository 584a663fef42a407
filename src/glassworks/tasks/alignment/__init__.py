"""Alignment of the features of frozen encoders."""
