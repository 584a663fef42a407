"""Facts about the environment of a run: those that may change bytes, and those that vary between identical runs.

`fingerprint` holds the facts that may change bytes, and is part of the recipe. `Provenance` holds the facts that vary: durations, host, git revision,
peak memory. It is written to provenance/STAGE.json, outside every output, and is no input of any stage. The report shows it.
"""

import json
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from glassworks.artifacts.machine import available_cores

BIT_CHANGING = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "pyarrow",
    "tokenizers",
    "webdataset",
    "resvg-py",
    "safetensors",
    "matplotlib",
    "jinja2",
    "pycocoevalcap",
)


def fingerprint(cpu_isa: str, device: str = "cpu") -> dict[str, Any]:
    """Environment facts that may change bytes: library versions, kind of device, instruction set of the CPU kernels."""
    versions = {name: metadata.version(name) for name in BIT_CHANGING}
    isa = cpu_isa if cpu_isa != "native" else f"native ({_widest_isa()})"
    return {
        "cpu_isa": isa,
        "device": device,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _widest_isa() -> str:
    """The widest vector instruction set of this CPU. Kernels of different widths may round differently."""
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))
        ).split()
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
    for name in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "asimd"):
        if name in flags:
            return name
    return "baseline"


class Provenance:
    """Measures the duration and peak memory of one execution of a stage."""

    def __init__(self, root: Path, stage: str) -> None:
        self.root, self.stage = root, stage
        self.started, self.clock = time.time(), time.monotonic()
        self.notes: dict[str, Any] = {}

    def as_json(self) -> dict[str, Any]:
        own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "stage": self.stage,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.monotonic() - self.clock, 3),
            "peak_memory_bytes": max(own, children) * unit,
            "host": platform.node(),
            "platform": platform.platform(),
            "cores": available_cores(),
            "git_revision": git_revision(self.root),
            **self.notes,
        }


def note_of(root: Path, stage: str, key: str | None) -> dict[str, Any]:
    """What provenance/STAGE.json says of the run that made the artefact with this key; empty if the file is missing, damaged, or of another run."""
    try:
        note = json.loads((root / "provenance" / f"{stage}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(note, dict):
        return {}
    return note if key is not None and key in (note.get("key"), *accepted_keys(note)) else {}


def accepted_keys(note: dict[str, Any]) -> list[Any]:
    """The keys of code with which `glassworks accept` vouched for the artefact of a run."""
    steps = note.get("accepted")
    return [step["to"] for step in steps if isinstance(step, dict) and "to" in step] if isinstance(steps, list) else []


def git_revision(root: Path) -> str | None:
    """Commit of the working tree, with `+changes` if the tree has uncommitted changes; None outside a git repository."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None
