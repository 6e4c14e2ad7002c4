"""Running an artifact where it will be served: in onnxruntime."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatestream.export.errors import ArtifactError, ContractError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array

Tensors = Mapping[str, Array]
"""By what they are: y, h, c, and where there are gates i, f, g, o."""


def one_line(error: Exception) -> str:
    """What onnxruntime says."""
    return " ".join(str(error).split())


def new_session(
    model: Path | bytes, what: str, *, optimised: bool = True, said: Callable[[Exception], str] = one_line
) -> Any:
    """An onnxruntime session on one thread of the CPU.

    Args:
        model: its file, or what would stand in one.
        what: to call it in an error.
        optimised: whether onnxruntime may replace nodes by faster ones, whose numbers differ in the last bits.
        said: what to show of onnxruntime's own error.

    Raises:
        ArtifactError: onnxruntime refuses it, or is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ArtifactError("onnxruntime is not installed: pip install 'gatestream[cpu]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal ones: errors come as exceptions, and a foreign graph brings warnings
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no common base but this
        raise ArtifactError(f"onnxruntime refuses {what}: {said(error)}") from error


class Session:
    """An artifact on one thread of the CPU.

    Raises:
        ArtifactError: onnxruntime refuses the file, or is not installed.
    """

    def __init__(self, path: Path, spec: pb.ModelSpec) -> None:
        self._session = new_session(path, str(path))
        self._spec = spec
        hidden, cell = spec.states
        self._outputs = {spec.outputs[0].name: "y", hidden.output: "h", cell.output: "c"} | {
            gate.output: gate.symbol for gate in spec.gates
        }

    def run(self, x: NDArray[np.generic], h: Array, c: Array, length: NDArray[np.int32]) -> Tensors:
        """Run once.

        Args:
            x: [batch, time] or [batch, time, features].
            h: hidden states before, [batch, layers, hidden].
            c: cell states before, [batch, layers, hidden].
            length: real steps of each row, [batch].

        Returns:
            y [batch, time, outputs]; h and c after, [batch, layers, hidden]; each gate's activations
            [batch, time, layers, hidden].

        Raises:
            ArtifactError: onnxruntime cannot.
            ContractError: an output has not the shape that it should have.
        """
        states = [state.input for state in self._spec.states]
        feed = {self._spec.inputs[0].name: x, self._spec.length_input: length}
        try:
            found = self._session.run(list(self._outputs), feed | dict(zip(states, (h, c), strict=True)))
        except Exception as error:  # as above
            raise ArtifactError(f"onnxruntime cannot run it: {' '.join(str(error).split())}") from error
        tensors = dict(zip(self._outputs.values(), found, strict=True))
        steps = x.shape[:2]
        shapes = {"y": (*steps, *self._spec.outputs[0].shape), "h": h.shape, "c": c.shape}
        for tensor, values in tensors.items():
            shape = shapes.get(tensor, (*steps, *h.shape[1:]))
            if values.shape != shape:
                raise ContractError(f"{tensor} came out as {list(values.shape)}, expected {list(shape)}")
        return tensors
