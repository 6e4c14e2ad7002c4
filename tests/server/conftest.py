from pathlib import Path

import pytest
import torch

from gatestream.export.exporter import Form, export
from gatestream.model.network import Network, NetworkConfig
from tests.support.artifacts import accumulator
from tests.support.once import once
from tests.support.traces import traced_once


@pytest.fixture(scope="session")
def accumulator_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return accumulator(tmp_path_factory.mktemp("artifacts") / "accumulator.onnx")


@pytest.fixture(scope="session")
def network() -> Network:
    torch.manual_seed(0)
    return Network(
        NetworkConfig(name="small", task="none", encoder="none", inputs=3, hidden=5, layers=2, outputs=4)
    ).eval()


@pytest.fixture(scope="session", params=["gates", "fused"])
def lstm_path(request: pytest.FixtureRequest, network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    form: Form = request.param

    def make(folder: Path) -> Path:
        path = folder / f"{form}.onnx"
        with traced_once(tmp_path_factory, "small"):
            export(network, path, form)
        return path

    return once(tmp_path_factory, f"small-{form}", make)
