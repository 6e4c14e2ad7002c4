"""What every artifact is held to before anything is made of it, so that a small file cannot cost much."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

LARGEST_FILE: Final = 2**31 - 1
"""Bytes; protobuf has no larger messages."""

MOST_NODES: Final = 100_000
"""Of a graph and those in it. The export makes some fifty for each layer."""

_EXTERNAL: Final = 1  # onnx.TensorProto.EXTERNAL


class BoundsError(ValueError):
    """A file is not one that is looked into; the message says why."""


def check_bounds(model: "onnx.ModelProto", source: str) -> None:
    """Everything stands in the file, and there is no more of it than an artifact can need.

    Args:
        model: what was read.
        source: what to call the file in an error.

    Raises:
        BoundsError: a tensor stands in another file or is sparse; or there are too many nodes.
    """
    nodes = 0
    for graph in _graphs(model):
        nodes += len(graph.node)
        if nodes > MOST_NODES:
            raise BoundsError(f"{source}: more than {MOST_NODES:,} nodes; no artifact has that many")
        if graph.sparse_initializer:
            raise BoundsError(f"{source}: has sparse initializers; expected plain ones")
        for tensor in _tensors(graph):
            if tensor.data_location == _EXTERNAL or tensor.external_data:
                raise BoundsError(
                    f"{source}: tensor {tensor.name[:100]!r} stands in another file; an artifact holds its weights "
                    "itself: export it again, or save it as one file"
                )


def _graphs(model: "onnx.ModelProto") -> "Iterator[onnx.GraphProto]":
    """The model's graph and all in it; protobuf has bounded how deep."""
    waiting = [model.graph]
    for function in model.functions:
        waiting += _inside(function)
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += _inside(graph)


def _inside(graph: "onnx.GraphProto | onnx.FunctionProto") -> "list[onnx.GraphProto]":
    return [
        found
        for node in graph.node
        for attribute in node.attribute
        for found in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
    ]


def _tensors(graph: "onnx.GraphProto") -> "Iterator[onnx.TensorProto]":
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
