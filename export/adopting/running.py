"""A foreign graph in onnxruntime, with no size fixed that the graph's operators do not fix themselves."""

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.proof.runtime import new_session

Array = NDArray[Any]
Named = Mapping[str, Array]

_SHOWN = 160
_NO_MEMORY = ("Failed to allocate", "bad_alloc")


class RunError(Exception):
    """The graph cannot be run on these shapes; the message is what onnxruntime says, in short."""


class Runner:
    """A graph on one thread of the CPU.

    Args:
        proto: the model; it is changed.

    Raises:
        ArtifactError: onnxruntime refuses it, or is not installed.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        _relax(proto.graph)
        self._session = new_session(proto.SerializeToString(), "it", said=_short)
        self._names = [output.name for output in self._session.get_outputs()]

    @classmethod
    def of(cls, model: ir.Model) -> "Runner":
        """A graph as it is at this moment."""
        return cls(ir.to_proto(model))

    def run(self, feed: Named) -> dict[str, Array]:
        """Run once.

        Raises:
            RunError: onnxruntime cannot.
            MemoryError: there is not enough for it.
        """
        try:
            found = self._session.run(self._names, dict(feed))
        except Exception as error:  # onnxruntime's own classes have no common base but this
            if any(word in str(error) for word in _NO_MEMORY):
                raise MemoryError("onnxruntime cannot allocate what a run of the file needs") from error
            raise RunError(_short(error)) from error
        return dict(zip(self._names, found, strict=True))


def _relax(graph: onnx.GraphProto) -> None:
    """Leave the types of inputs and outputs, and of their shapes the number of input axes."""
    weights = {item.name for item in graph.initializer}
    for item in graph.input:
        if item.name not in weights:
            for dim in item.type.tensor_type.shape.dim:
                dim.Clear()
    for item in graph.output:
        item.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    # "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ..."; then perhaps the place in its sources.
    text = text.rpartition(" Status Message: ")[2] or text
    text = text.removeprefix("[ONNXRuntimeError] : ")
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
