"""glassworks: a reproducible data and training pipeline for multimodal models."""

__version__ = "0.1.0"
