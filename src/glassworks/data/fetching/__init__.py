"""Fetching of raw files: downloads, the package index, archives, local folders."""
