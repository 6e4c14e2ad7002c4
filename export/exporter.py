"""From a network to its artifact."""

from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch

from gatestream.export import artifact
from gatestream.export.describe import describe
from gatestream.export.fuse import Fuse
from gatestream.export.naming import NameCells
from gatestream.export.passes import tidy
from gatestream.export.roles import Array
from gatestream.export.trace import OPSET, trace
from gatestream.model.network import Network
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

Form = Literal["gates", "fused"]
FORMS: dict[Form, pb.Form] = {"gates": pb.FORM_GATES, "fused": pb.FORM_FUSED}


def build(network: Network, form: Form) -> ir.Model:
    """The graph of a network in one of the two forms, as yet without its spec."""
    model = trace(network)
    tidy()(model)
    NameCells()(model)
    if form == "fused":
        Fuse()(model)
    return model


def weights_of(network: Network) -> dict[str, Array]:
    """A network's parameters as NumPy arrays, by the names that the checkpoint has for them."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def export(network: Network, path: Path | str, form: Form, *, version: str = "1") -> None:
    """Write a network as an artifact."""
    spec = describe(
        network.config,
        FORMS[form],
        version=version,
        fingerprint=artifact.fingerprint(weights_of(network)),
        opset=OPSET,
        torch_version=torch.__version__,
    )
    artifact.save(build(network, form), spec, Path(path))
