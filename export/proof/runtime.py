"""Running an artifact where it will be served: in onnxruntime."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatestream.export.errors import ArtifactError, ContractError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array

Tensors = Mapping[str, Array]
"""By what they are: y, h, c, and where there are gates i, f, g, o."""


class Session:
    """An artifact on one thread of the CPU.

    Raises:
        ArtifactError: onnxruntime refuses the file, or is not installed.
    """

    def __init__(self, path: Path, spec: pb.ModelSpec) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ArtifactError("onnxruntime is not installed: pip install 'gatestream[cpu]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; they come as exceptions too
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no common base but this
            raise ArtifactError(f"onnxruntime refuses {path}: {' '.join(str(error).split())}") from error
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
