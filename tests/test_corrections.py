"""Every test that docs/explanation/corrections.md names is there, and every test of a defect or of a pain is named there."""

import re

from .small_pipeline import REPOSITORY

NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (REPOSITORY / "docs/explanation/corrections.md").read_text())


def test_every_named_test_exists():
    assert len(NAMED) >= 30
    for file, name in NAMED:
        assert f"def {name}(" in (REPOSITORY / file).read_text(), f"{file}::{name}"


def test_every_test_of_a_defect_and_of_a_pain_is_named():
    named = {name for _, name in NAMED}
    found = {
        name
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_(?:defect_00[01234]|pains?)_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert found <= named and all(name.startswith(("test_defect_", "test_pain")) for name in named)
    begins = [match.group() for name in found if (match := re.match(r"test_pains?_[\d_]+(and_\d+)?", name))]
    assert {int(number) for begin in begins for number in re.findall(r"\d+", begin)} == set(range(1, 16))
