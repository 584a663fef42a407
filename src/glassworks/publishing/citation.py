"""CITATION.cff of a published model."""

from pathlib import Path

import yaml

from glassworks.artifacts.digests import write_text
from glassworks.publishing.subject import CITATION, Subject

UNNAMED = [{"name": "Authors not stated"}]


def write_citation(subject: Subject, target: Path) -> None:
    """Write CITATION.cff: the authors of the project, the date, and the digest of the artefact."""
    content = {
        "cff-version": "1.2.0",
        "message": "If you use this model, please cite it as below, and the data and weights that README.md lists.",
        "type": "dataset",
        "title": f"{subject.name}: a model trained with glassworks",
        "authors": subject.facts.authors or UNNAMED,
        "date-released": subject.facts.date[:10],
        "version": subject.model.digest[:12],
        "identifiers": [
            {
                "type": "other",
                "value": f"sha256:{subject.model.digest}",
                "description": f"Digest of the manifest of the trained model, {subject.model.stage}.",
            }
        ],
        **({"license": subject.facts.licence} if subject.facts.licence else {}),
        **({"commit": subject.facts.code} if subject.facts.code else {}),
    }
    write_text(target / CITATION, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))
