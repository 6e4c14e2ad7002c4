"""Tensors from the middle of a graph, as onnxruntime computes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.proof.runtime import new_session

Array = NDArray[Any]


class ProbeError(Exception):
    """The graph cannot be run on these inputs; the message is what onnxruntime says."""


class Probe:
    """A graph whose outputs are tensors of one's choice, on one thread of the CPU; its inputs' sizes are free.

    Args:
        model: is left as it is.
        tensors: of its main graph.
        optimised: whether onnxruntime may replace nodes by faster ones, whose numbers differ in the last bits.

    Raises:
        ArtifactError: onnxruntime refuses it, or is not installed.
    """

    def __init__(self, model: ir.Model, tensors: Sequence[ir.Value], optimised: bool = True) -> None:
        proto = ir.to_proto(model)
        for item in proto.graph.input:
            for dim in item.type.tensor_type.shape.dim:
                dim.Clear()
        names = list(dict.fromkeys(str(value.name) for value in tensors))
        given = {item.name for item in proto.graph.input} | {item.name for item in proto.graph.initializer}
        _prune(proto.graph, set(names))
        del proto.graph.output[:], proto.graph.value_info[:]
        # What is no node's output cannot be a graph's in onnxruntime; types are found by it.
        proto.graph.node.extend(
            onnx.helper.make_node("Identity", [name], [f"probed.{name}"]) for name in names if name in given
        )
        self._names = {name: f"probed.{name}" if name in given else name for name in names}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names.values())
        self._session = new_session(proto.SerializeToString(), "it", optimised=optimised)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feed: every input of the graph.

        Returns:
            The tensors by name.

        Raises:
            ProbeError: onnxruntime cannot.
        """
        try:
            found = self._session.run(list(self._names.values()), dict(feed))
        except Exception as error:  # onnxruntime's own classes have no common base but this
            raise ProbeError(" ".join(str(error).split())) from error
        return dict(zip(self._names, found, strict=True))


def _prune(graph: onnx.GraphProto, needed: set[str]) -> None:
    """Leave the nodes and initializers that some tensors are made from: onnxruntime would run the others too."""
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= _read_by(node)
    initializers = [item for item in graph.initializer if item.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)


def _read_by(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node or the graphs in it read; those of these graphs' own are among them."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            found |= {item.name for item in graph.output}
            for inner in graph.node:
                found |= _read_by(inner)
    return found


def zeros(model: ir.Model, size: int) -> dict[str, Array]:
    """Zeros for every input of a graph, whose free axes are of one size."""
    feed = {}
    for value in model.graph.inputs:
        shape = [dim if isinstance(dim, int) and dim > 0 else size for dim in value.shape or ()]
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        feed[str(value.name)] = np.zeros(shape, dtype)
    return feed
