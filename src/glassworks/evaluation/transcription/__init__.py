"""Transcriptions of speech and captions of images by a fused decoder."""
