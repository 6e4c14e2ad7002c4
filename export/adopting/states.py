"""A state of a graph that was not made here."""

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


@dataclass(slots=True)
class Pair:
    """A state: an input of the graph, and the output that has what becomes of it.

    Attributes:
        input: of the graph.
        output: of the graph.
        found: how they were found to belong together, for a person: "initial_h of LSTM 'rnn'", "by running it".
        role: what it is to the model.
        batch_axis: which of its axes is the sessions'; None: not known yet.
        initial: what a new session starts from, of the state's shape with 1 for the batch; None: zeros.
        cell: the recurrent cell that it belongs to, as `CellSpec.name`; empty: none, or not known.
    """

    input: ir.Value
    output: ir.Value
    found: str
    role: pb.StateRole = pb.STATE_ROLE_UNSPECIFIED
    batch_axis: int | None = None
    initial: NDArray[Any] | None = None
    cell: str = ""
