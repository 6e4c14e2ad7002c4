from functools import cache
from pathlib import Path
from typing import Protocol

import onnx
import onnx_ir as ir
import pytest

from gatestream.export import exporter
from gatestream.export.exporter import Form
from gatestream.export.formats import Precision
from gatestream.export.proof import accuracy
from gatestream.export.proof.report import Report
from gatestream.export.sources.checkpoint import trace
from tests.export import networks
from tests.support.once import once

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

    Torch's trace of a network takes most of an export's time, and is the same whatever becomes of it then: it is made
    once for each network. Nor is it of interest here how fast a file is: it is timed as shortly as can be.
    """

    def traced(name: str) -> ir.Model:
        def make(_: Path) -> bytes:
            return ir.to_proto(trace(networks.random(networks.ALL[name]))).SerializeToString()

        return ir.from_proto(onnx.ModelProto.FromString(once(tmp_path_factory, f"trace-{name}", make)))

    @cache
    def find(name: str, form: Form, weights: Precision = "float32") -> tuple[Path, Report]:
        def make(folder: Path) -> tuple[Path, Report]:
            path = folder / "model.onnx"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exporter, "trace", lambda _: traced(name))
                patch.setattr(accuracy, "_SECONDS", 0.0)
                return path, exporter.export(networks.random(networks.ALL[name]), path, form, weights=weights)

        return once(tmp_path_factory, f"{name}-{form}-{weights}", make)

    return find
