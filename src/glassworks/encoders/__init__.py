"""Frozen encoders behind one interface, each a folder NAME/ with settings.py and encoder.py."""
