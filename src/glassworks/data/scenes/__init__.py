"""Composed scenes: their kinds of object, their layout and the language that describes them."""
