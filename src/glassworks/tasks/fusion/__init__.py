"""Texts from the fused features of several modalities."""
