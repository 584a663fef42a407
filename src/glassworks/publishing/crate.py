"""ro-crate-metadata.json: a Workflow Run RO-Crate (w3id.org/ro/wfrun/workflow) of the run that made the model.

The workflow is training/pipeline.json, the recipes of all stages. Nothing in it depends on the clock or on a random identifier.
"""

from pathlib import Path
from typing import Any

from glassworks import __version__
from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.artifacts.model_files import INDEX, WEIGHTS
from glassworks.models.adapters import WEIGHTS as ADAPTER
from glassworks.publishing.card import CARD as README
from glassworks.publishing.croissant import CARD, licence_url
from glassworks.publishing.model_files import EVALUATIONS, PIPELINE
from glassworks.publishing.subject import Subject
from glassworks.report.attribution import attribution, weights_attribution

METADATA = "ro-crate-metadata.json"
VERSION = "1.1"
"""Version of RO-Crate on which the profiles below are based."""
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
WORKFLOW = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
UNSTATED = "README.md lists the licences of the data and weights that it was made from."
SUFFIXES = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".yaml": "application/yaml",
    ".cff": "application/yaml",
    ".md": "text/markdown",
    ".safetensors": "application/octet-stream",
    ".jinja": "text/plain",
    ".txt": "text/plain",
}


def write_crate(subject: Subject, target: Path) -> None:
    """Write the metadata of all files of `target`, which are complete but for the record of their digests."""
    from rocrate.model.computerlanguage import ComputerLanguage
    from rocrate.model.contextentity import ContextEntity
    from rocrate.model.file import File
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version=VERSION)
    crate.metadata.extra_contexts.append(CONTEXT)

    def entity(identifier: str, kind: str | list[str], /, **properties: Any) -> Any:
        return crate.add(ContextEntity(crate, identifier, {"@type": kind, **properties}))

    language = crate.add(
        ComputerLanguage(crate, "#recipes", {"@type": "ComputerLanguage", "name": "Recipes of glassworks' stages"})
    )
    program = entity("#glassworks", "SoftwareApplication", name="glassworks", softwareVersion=__version__)
    files = {}
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        name = path.relative_to(target).as_posix()
        properties = {"name": name, **_of_file(path)}
        if name == PIPELINE:
            files[name] = crate.add_workflow(path, name, properties=properties, main=True, lang=language)
        else:
            files[name] = crate.add(File(crate, path, name, properties=properties))
    workflow = files[PIPELINE]
    workflow["version"] = subject.model.digest[:12]
    workflow["name"] = f"Stages that made {subject.name}"
    workflow["conformsTo"] = entity(WORKFLOW, "CreativeWork", name="Bioschemas ComputationalWorkflow profile")
    entity(PARAMETER, "CreativeWork", name="Bioschemas FormalParameter profile")

    def parameter(identifier: str, name: str, kind: str, described: str) -> Any:
        found = {"name": name, "additionalType": kind, "description": described, "conformsTo": {"@id": PARAMETER}}
        return entity(identifier, "FormalParameter", **found)

    inputs, objects = [], []
    for name, made in subject.made("records").items():
        given = parameter(
            f"#input-data-{name}", f"data-{name}", "File", f"The data set {name}, as its card describes it."
        )
        card = files[f"data/{name}/{CARD}"]
        card["exampleOfWork"] = given
        card["about"] = entity(
            f"#data-{name}", "CreativeWork", **_credited(attribution(made.params), name, made.digest)
        )
        inputs.append(given)
        objects.append(card)
    for name, made in subject.made("weights").items():
        given = parameter(f"#input-weights-{name}", f"weights-{name}", "CreativeWork", f"The published weights {name}.")
        credited = _credited(weights_attribution(made.params), name, made.digest)
        objects.append(entity(f"#weights-{name}", "CreativeWork", **credited, exampleOfWork=given))
        inputs.append(given)
    outputs, results = [], []
    for name, file in files.items():
        if name.startswith((WEIGHTS, INDEX, ADAPTER)) or _is_shard(name):
            made_here = parameter(f"#output-{name}", name, "File", "Weights of the model.")
        elif name.startswith(f"{EVALUATIONS}/"):
            made_here = parameter(f"#output-{name}", name, "File", "Scores of the model.")
        else:
            continue
        file["exampleOfWork"] = made_here
        outputs.append(made_here)
        results.append(file)
    workflow["input"], workflow["output"] = inputs, outputs
    agents = [
        entity(f"#author-{number}", "Person" if "family-names" in author else "Organization", name=_name(author))
        for number, author in enumerate(subject.facts.authors, start=1)
    ]
    properties = {
        "name": f"Run of the stages that made {subject.name}",
        "instrument": workflow,
        "object": objects,
        "result": results,
        "endTime": subject.facts.date.replace("Z", "+00:00"),
        "description": f"Stages up to {subject.model.stage} and its evaluations, with glassworks {__version__}"
        + (f" at commit {subject.facts.code}." if subject.facts.code else "."),
    }
    if agents:
        properties["agent"] = agents[0]
    action = crate.add(ContextEntity(crate, "#run", {"@type": "CreateAction"}))
    for key, value in properties.items():
        action[key] = value
    workflow["softwareRequirements"] = program
    root = crate.root_dataset
    files[README]["about"] = root
    root["name"] = subject.name
    root["description"] = f"The model {subject.name}, trained with glassworks: weights, scores, origin and digests."
    root["datePublished"] = subject.facts.date
    root["license"] = (
        entity(f"https://spdx.org/licenses/{subject.facts.licence}", "CreativeWork", name=subject.facts.licence)
        if subject.facts.licence
        else entity("#licence", "CreativeWork", name="Not stated by the publisher", description=UNSTATED)
    )
    root["mentions"] = action
    if agents:
        root["author"] = agents if len(agents) > 1 else agents[0]
    root["conformsTo"] = [
        entity(profile, "CreativeWork", name=name, version=version) for profile, (name, version) in PROFILES.items()
    ]
    write_json(target / METADATA, _sorted(crate.metadata.generate()))


def _of_file(path: Path) -> dict[str, Any]:
    found = {"contentSize": str(path.stat().st_size), "sha256": sha256_file(path)}
    return {**found, "encodingFormat": SUFFIXES[path.suffix]} if path.suffix in SUFFIXES else found


def _is_shard(name: str) -> bool:
    return "/" not in name and name.endswith(".safetensors")


def _credited(credit: Any, name: str, digest: str) -> dict[str, Any]:
    return {
        "name": credit.title,
        "alternateName": name,
        "license": licence_url(credit),
        "identifier": f"sha256:{digest}",
        **({"creditText": credit.credit} if credit.credit else {}),
        **({"description": credit.derivation} if credit.derivation else {}),
    }


def _name(author: dict[str, str]) -> str:
    person = " ".join(filter(None, (author.get("given-names"), author.get("family-names"))))
    return author.get("name") or person or author.get("alias", "not stated")


def _sorted(metadata: dict[str, Any]) -> dict[str, Any]:
    """The entities in the order of their identifiers, after the metadata file and the root."""
    first = {METADATA: 0, "./": 1}
    graph = sorted(metadata["@graph"], key=lambda one: (first.get(one["@id"], 2), one["@id"]))
    return {**metadata, "@graph": graph}
