"""A change of what others call is seen."""

from pathlib import Path

from tests.packaging.surface import lines


def test_what_is_offered_is_what_was_offered() -> None:
    known = Path(__file__).with_name("surface.txt").read_text().splitlines()
    # Meant to change? python -m tests.packaging.surface > tests/packaging/surface.txt, and say so in CHANGELOG.md.
    assert list(lines()) == known
