"""Every test that docs/explanation/corrections.md names is there, and every test of a defect is named there."""

import re

from .small_pipeline import REPOSITORY

NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (REPOSITORY / "docs/explanation/corrections.md").read_text())


def test_every_named_test_exists():
    assert len(NAMED) >= 30
    for file, name in NAMED:
        assert f"def {name}(" in (REPOSITORY / file).read_text(), f"{file}::{name}"


def test_every_test_of_a_defect_is_named():
    found = {
        name
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_defect_00[0134]_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert found == {name for _, name in NAMED}
