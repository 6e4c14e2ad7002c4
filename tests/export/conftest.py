from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

from gatestream.export import exporter
from gatestream.export.exporter import Form
from gatestream.export.formats import Precision
from gatestream.export.proof import accuracy
from gatestream.export.proof.report import Report
from tests.export import networks
from tests.support.once import once
from tests.support.traces import traced_once

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
    """Export a network of `networks.ALL`, by name, form and how its weights are stored; each is exported once.

    It is of no interest here how fast a file is: it is timed as shortly as can be.
    """

    @cache
    def find(name: str, form: Form, weights: Precision = "float32") -> tuple[Path, Report]:
        def make(folder: Path) -> tuple[Path, Report]:
            path = folder / "model.onnx"
            with traced_once(tmp_path_factory, name), pytest.MonkeyPatch.context() as patch:
                patch.setattr(accuracy, "_SECONDS", 0.0)
                return path, exporter.export(networks.random(networks.ALL[name]), path, form, weights=weights)

        return once(tmp_path_factory, f"{name}-{form}-{weights}", make)

    return find
