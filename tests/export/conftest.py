from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

from gatestream.export.exporter import Form, export
from gatestream.export.precision import Precision
from gatestream.export.report import Report
from tests.export import networks

PROOF = [
    "model",
    "contract",
    "gates",
    "weights",
    "checkpoint",
    "carried steps",
    "rows together",
    "rows of unlike length",
]
"""The checks that make up the proof of a file, in order."""


class Exported(Protocol):
    def __call__(self, name: str, form: Form, weights: Precision = "float32") -> tuple[Path, Report]:
        """The file, and how its proof went."""


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export a network of `networks.ALL`, by name, form and how its weights are stored; each is exported once."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def once(name: str, form: Form, weights: Precision = "float32") -> tuple[Path, Report]:
        path = folder / f"{name}-{form}-{weights}.onnx"
        return path, export(networks.random(networks.ALL[name]), path, form, weights=weights)

    return once
