"""Bringing raw files here: downloads, the package index, archives, the user's own folders."""
