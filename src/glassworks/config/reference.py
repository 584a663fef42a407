"""Documentation pages that describe every key of the YAML files, generated from the JSON Schemas."""

import json
from typing import Any

from glassworks.config.project import schema_text

TITLES = {"params": "Keys of params.yaml", "experiment": "Keys of experiments/NAME.yaml"}


def reference_text(name: str) -> str:
    """The text of `docs/reference/NAME.md`, for a name in `SCHEMAS`."""
    schema = json.loads(schema_text(name))
    sections = schema.get("$defs", {})
    lines = [
        f"# {TITLES[name]}",
        "",
        f"Written by `make schemas` from the settings classes, as `schemas/{name}.schema.json` is.",
    ]
    if "properties" in schema:
        lines += ["", *_table(schema)]
    else:
        tasks = [option["$ref"].rpartition("/")[2] for option in schema["oneOf"]]
        lines += ["", "A file is one of: " + ", ".join(_link(task) for task in tasks) + "."]
        sections = {**{task: sections[task] for task in tasks}, **sections}
    for title, section in sections.items():
        if "properties" in section:
            lines += ["", f"## {title}", "", section.get("description", ""), "", *_table(section)]
    return "\n".join(lines) + "\n"


def _table(section: dict[str, Any]) -> list[str]:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = section.get("required", [])
    for key, field in section["properties"].items():
        default = "required" if key in required else _default(field.get("default"))
        meaning = " ".join(field.get("description", "").split())
        rows.append("| " + " | ".join(map(_escaped, (f"`{key}`", _type(field), default, meaning))) + " |")
    return rows


def _default(value: Any) -> str:
    """The default as JSON. Empty for an object, which has a section of its own."""
    return "" if isinstance(value, dict) else f"`{json.dumps(value, ensure_ascii=False)}`"


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return _link(field["$ref"].rpartition("/")[2])
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_type(option) for option in field[key]))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    if field.get("type") == "object":
        patterns = list(field.get("patternProperties", {}).values())
        inner = field.get("additionalProperties") or (patterns[0] if patterns else None)
        return f"by name: {_type(inner)}" if isinstance(inner, dict) else "mapping"
    bounds = [f"{sign} {field[name]}" for name, sign in BOUNDS.items() if name in field]
    return " ".join([str(field.get("type", "any")), ", ".join(bounds)]).strip()


BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _link(title: str) -> str:
    return f"[{title}](#{title.lower()})"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
