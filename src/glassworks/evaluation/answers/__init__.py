"""Answers of an instruction-tuned model."""
