"""The source files of a stage: the static import closure of its entry modules.

No module is imported to compute the closure. Imports inside functions count; imports under `TYPE_CHECKING` do not. A module adds its parent packages.
A package adds its templates/. Files under `PLUMBING` do not affect the bytes of a result; they are neither followed nor listed.
"""

import ast
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from glassworks.artifacts.digests import sha256_file, write_text
from glassworks.errors import ConfigError

PACKAGE = "glassworks"
PLUMBING = (
    "artifacts/",
    "cli/",
    "config/renames.py",
    "pipeline/",
    "runtime/",
    "console.py",
    "errors.py",
    "progress.py",
    "watchdog.py",
)
"""Prefixes of files excluded from all keys: they affect how a stage runs, not its result."""


class Closure:
    """Import closures over a source tree. `cache` is a JSON file that maps the digest of a file to its imports, so that no file is parsed twice."""

    def __init__(self, source: Path, cache: Path | None = None) -> None:
        self.source, self.cache = source, cache
        self.digests: dict[str, str] = {}
        """sha256 of every visited file, by path relative to the package."""
        self._imports: dict[str, list[str]] = {}
        self._files: dict[str, str | None] = {}
        self._closures: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._known: dict[str, list[str]] = {}
        self._new = False
        if cache is not None:
            with suppress(OSError, ValueError):
                self._known = json.loads(cache.read_text())

    def files(self, entries: Iterable[str]) -> tuple[str, ...]:
        """The sorted files in the closure of modules such as `stages.train`, relative to the package. Raises `ConfigError` for a missing module."""
        entries = tuple(entries)
        if entries not in self._closures:
            self._closures[entries] = self._close(entries)
        return self._closures[entries]

    def digest(self, file: str) -> str:
        """sha256 of a file of the package."""
        if file not in self.digests:
            self.digests[file] = sha256_file(self.source / PACKAGE / file)
        return self.digests[file]

    def save(self) -> None:
        """Write the cache if it has new entries."""
        if self._new and self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            current = {self.digests[file]: found for file, found in self._imports.items()}
            write_text(self.cache, json.dumps(self._known | current))
            self._new = False

    def _close(self, entries: tuple[str, ...]) -> tuple[str, ...]:
        found: set[str] = set()
        waiting = [f"{PACKAGE}.{entry}" for entry in entries]
        for entry in entries:
            if not self._file(f"{PACKAGE}.{entry}"):
                path = self.source.joinpath(PACKAGE, *entry.split(".")).with_suffix(".py")
                hint = (
                    "add it"
                    if (self.source / PACKAGE).is_dir()
                    else "run the command in the root of a clone of the project"
                )
                raise ConfigError(f"{path}: no such file; {hint}")
        while waiting:
            module = waiting.pop()
            file = self._file(module)
            if file is None or file in found or file.startswith(PLUMBING):
                continue
            found.add(file)
            waiting += self._imported(file)
            if "." in module:
                waiting.append(module.rpartition(".")[0])
        templates = {
            path.relative_to(self.source / PACKAGE).as_posix()
            for folder in {(self.source / PACKAGE / file).parent / "templates" for file in found}
            for path in folder.glob("**/*")
            if path.is_file()
        }
        return tuple(sorted(found | templates))

    def _file(self, module: str) -> str | None:
        """The file of a module, relative to the package; None if there is no such module."""
        if module not in self._files:
            path = self.source.joinpath(*module.split("."))
            candidates = (path.with_suffix(".py"), path / "__init__.py")
            file = next((file for file in candidates if file.is_file()), None)
            self._files[module] = file.relative_to(self.source / PACKAGE).as_posix() if file else None
        return self._files[module]

    def _imported(self, file: str) -> list[str]:
        """Modules of this package that a file imports."""
        if file not in self._imports:
            digest = self.digest(file)
            if digest not in self._known:
                self._known[digest] = imported(ast.parse((self.source / PACKAGE / file).read_bytes()))
                self._new = True
            self._imports[file] = self._known[digest]
        return self._imports[file]


def imported(tree: ast.Module) -> list[str]:
    """Sorted names of this package that a module imports anywhere. Some names are attributes, not modules."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not followed"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting += ast.iter_child_nodes(node)
    return sorted(name for name in found if name.split(".")[0] == PACKAGE)


def _is_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"
