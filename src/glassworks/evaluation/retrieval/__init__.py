"""Retrieval between the modalities of aligned heads."""
