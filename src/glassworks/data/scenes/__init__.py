"""Composed scenes: which kinds of object appear, how they are laid out, and the language that describes them."""
