"""Traces of networks, each made once though tests run in several processes.

Torch's trace takes most of an export's time, and is the same whatever becomes of it then.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from gatestream.export import exporter
from gatestream.export.sources.checkpoint import trace
from gatestream.model.network import Network
from tests.support.once import once


def traced(factory: pytest.TempPathFactory, name: str, network: Network) -> ir.Model:
    """What `trace` makes of a network.

    Args:
        factory: of the run.
        name: what no other network is called by.
        network: the same whenever it is called by that name.
    """

    def make(_: Path) -> bytes:
        return ir.to_proto(trace(network)).SerializeToString()

    return ir.from_proto(onnx.ModelProto.FromString(once(factory, f"trace-{name}", make)))


@contextmanager
def traced_once(factory: pytest.TempPathFactory, name: str) -> Iterator[None]:
    """Have exports of a network take the trace that `traced` has of it by a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", lambda network: traced(factory, name, network))
        yield
