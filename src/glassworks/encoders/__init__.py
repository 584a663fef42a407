"""Frozen encoders behind one interface: a folder NAME/ with settings.py and encoder.py each."""
